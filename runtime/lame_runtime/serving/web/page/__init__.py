"""The page at `/` for a person: one HTML file without anything from elsewhere.

index.html  the page of similarities, its style and its script
search.html the page of search
page_route  sends it, with a policy that lets nothing but its own style and script run
"""
