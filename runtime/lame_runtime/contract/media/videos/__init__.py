"""Video files: from bytes of unknown origin to upright frames and their times.

video_file       the file, opened so that nothing else is; surveys and frames
bounded_file     the open file as FFmpeg sees it
video_container  which containers are read, and whether a file is whole
video_boxes      whether an MP4 file is whole, and what its index claims
video_elements   whether a Matroska, AVI or GIF file is whole
video_broadcast  whether an MPEG program or transport stream is whole
video_zeros      zeros at the end of a file: padding, or content that was never written
video_timeline   number, rate and times of frames
video_frames     decoding within a bounded memory; frames as a player shows them
"""
