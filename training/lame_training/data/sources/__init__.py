"""Sources of training rows: the folder that they stay in, and the files around them.

data_root      a folder of data that no path, glob or link leads out of
yaml_file      YAML of unknown origin, bounded in size, depth and aliases
saved_folder   a folder that `Dataset.save_to_disk` wrote, checked before it is opened
json_lines     a line of JSON Lines as a row
row_places     the file and line of a row, for messages
"""
