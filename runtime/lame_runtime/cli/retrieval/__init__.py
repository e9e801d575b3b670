"""The commands `index` and `search`; what they run is the package `lame_runtime.search`.

index_command   vectors to an index
search_command  a text, pictures or both to the nearest rows
result_page     results as an HTML page with thumbnails
"""
