"""Pictures, videos and PDF pages: from a path, bytes or an object in memory to pixels and patches.

images      picture → upright RGB → resized; frames → patches
video       file or frames → sampled, resized frames and their times
videos      video files: opened, checked, decoded
pages       page of a PDF → picture

`open_image`, `read_video`, `page_names`, `render_page` and the functions of `videos` read a
file if they are given a path. The other functions are pure.
"""
