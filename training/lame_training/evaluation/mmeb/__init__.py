"""Reads the 78 tasks of MMEB-V2 in their published layouts.

mmeb_v2            the suite: which reader handles which task
task_list          names, metrics, pools and files of the tasks, and the two page conventions
image_tasks        36 image tasks: rows with pools of their own
document_tasks     24 visual-document tasks: BEIR's three tables, one pool of all pages
video_tasks        18 video tasks: folders of frames
video_rows         one parser for each kind of video row
video_captions     how text-to-video data sets name a video and its caption
video_questions    how question-answering data sets spell question, options and answer
video_labels       the class names of video classification
"""
