"""Pictures behind URLs, for hosts that the operator allows; nothing is fetched by default.

web_address  one parser for URLs, and the hosts and addresses that are refused
download     a connection to the very address that was checked, within bounds of bytes and time
"""
