"""Pictures, videos and PDF pages: from a path, bytes or an object in memory to pixels and patches.

images           picture → upright RGB → resized; frames → patches
decoders         picture's file → loaded picture, by an allow-list of formats
decoding_limits  sizes that are accepted, and the memory that decoding takes
colors           samples of any mode → RGB
video            file or frames → sampled, resized frames and their times
videos           video files: opened, checked, decoded
pages            page of a PDF → picture

`open_image`, `read_video`, `page_names`, `render_page` and the functions of `videos` read a
file if they are given a path. The other functions are pure.
"""
