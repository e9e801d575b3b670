"""Search over HTTP in an index that the operator names.

search_request    `/v1/search` → what is wanted, and the rows that come back
thumbnail_route   small pictures of rows
"""
