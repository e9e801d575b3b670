"""The modules that a Sentence Transformers folder lists, and where their files lie.

module_list     modules.json
router_folder   a Router, whose two routes have to be one model
module_entry    a class by its name, and the folder of a module
"""
