"""Video files: from bytes of unknown origin to upright frames and their times.

video_file       the file, opened so that nothing else is; surveys and frames
bounded_file     the open file as FFmpeg sees it
video_container  which containers are read, and whether a file is whole
video_broadcast  the same for MPEG program and transport streams
video_timeline   number, rate and times of frames
video_frames     decoding within a bounded memory; frames as a player shows them
"""
