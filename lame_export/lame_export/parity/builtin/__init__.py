"""The built-in data set, which serves if an export gets no data.

languages        the same words and sentences in languages of many scripts
drawn_texts      texts combined of them, with code, digits and emoji
drawn_pictures   pictures of many sizes
builtin_data     the set in MMEB's formats
"""
