"""Small pictures, videos and PDFs in many forms, and ways to damage them.

pictures   files that Pillow writes, and PNGs with 16 bits written by hand
videos     files that PyAV writes
pages      PDFs written by hand
foreign    formats that nobody expects, and texts that name other files
damage     mutations of bytes, blind and aware of a format's parts
"""
