"""Published embedders whose folders do not say how their vectors are made.

published_forms   what is known of each, and from where
form_folder       reads such a folder, and derives its contract
"""
