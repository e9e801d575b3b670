"""The instruction that a role stands for, and the roles that a contract knows."""

from __future__ import annotations

from lame_runtime.contract.prompts import Input
from lame_runtime.contract.rules import PromptLayout
from lame_runtime.errors import UsageError, shown

ROLE_WORDS = {
    "query": "query",
    "search_query": "query",
    "passage": "document",
    "document": "document",
    "search_document": "document",
}
"""The contract's role for each word of other APIs: NIM, Cohere and Voyage."""


def require_role(layout: PromptLayout, role: object) -> None:
    """Checks that the contract knows a role; None is none.

    Raises:
        UsageError: the contract does not know the role, or it is not a string.
    """
    # the type first, because a list has no hash
    if role is not None and not (isinstance(role, str) and role in layout.roles):
        name = repr(role) if isinstance(role, str) else f"a {type(role).__name__}"
        known = shown(sorted(layout.roles), 200)
        raise UsageError(f"unknown role {shown(name)}: use one of {known}")


def role_instruction(layout: PromptLayout, item: Input, role: str | None) -> str:
    """Returns the instruction that an input is embedded with.

    Raises:
        UsageError: the contract does not know the role.
    """
    # Before the input's own instruction is looked at: a misspelled role is an error in any case.
    require_role(layout, role)
    if item.instruction is not None:
        return item.instruction
    # a role without an instruction is still a role: it does not fall back to the default
    role = layout.default_role if role is None else role
    return "" if role is None else layout.roles[role]
