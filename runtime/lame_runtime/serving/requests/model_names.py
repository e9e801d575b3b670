"""Names of the model, and the role that a client asks for.

Clients that cannot send `input_type`, such as LangChain's and LlamaIndex's, name the role as a
suffix of the model, as NVIDIA's NIM has it: `bundle-query`.
"""

from __future__ import annotations

from collections.abc import Collection

from lame_runtime.contract.fields.roles import ROLE_WORDS
from lame_runtime.errors import shown
from lame_runtime.serving.api.api_errors import ApiError

_SUFFIXES = {"-query": "query", "-passage": "document", "-document": "document"}


def asked_role(
    model: str | None, input_type: str | None, name: str, known: Collection[str]
) -> str | None:
    """Returns the role of a request's inputs; None for none.

    Args:
        model: what the client calls the model; None and "" stand for the one that is served.
        input_type: the client's word for the role.
        name: name of the model that is served.
        known: roles of the contract, of which each is also a word of its own.

    Raises:
        ApiError: 404, another model; 400, no such role, or two roles.
    """
    # first the name: a wrong model makes every other mistake irrelevant
    suffixed = _suffix_role(model, name)
    if input_type is None:
        role, param = suffixed, "model"
    else:
        role, param = ROLE_WORDS.get(input_type, input_type), "input_type"
        if suffixed not in (None, role):
            raise ApiError(
                400,
                f"`input_type` is {shown(input_type)}, and the model's name asks for the role "
                f"{suffixed}: send one of them",
                param="input_type",
            )
    # contracts without instructions know the roles, and give them none
    if role is not None and role not in known:
        words = [word for word, ours in ROLE_WORDS.items() if ours in known]
        words += sorted(set(known) - set(words))
        raise ApiError(
            400,
            f"`{param}` asks for the role {shown(role)}, which the model does not have: "
            f"use {shown(', '.join(words), 200) if words else 'none'}",
            param=param,
        )
    return role


def _suffix_role(model: str | None, name: str) -> str | None:
    if model in (None, "", name):
        return None
    for suffix, role in _SUFFIXES.items():
        if model == name + suffix:
            return role
    # vectors of another model would be taken for those of the one that was meant
    names = ", ".join(name + suffix for suffix in ("", *_SUFFIXES))
    raise ApiError(
        404, f"the model {shown(model)} is not served here: use {names}", "model_not_found",
        param="model",
    )  # fmt: skip
