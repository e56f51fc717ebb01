"""The stand-in's answer: the sentences of its context that best match the question."""

import html
import re
from collections.abc import Sequence
from typing import Any

from dev.provider.embedding import Embedder

UNKNOWN = "I do not know: nothing in the context that I was given answers that."
GREETING = "I am a stand-in for a language model. I answer from the context that I am given."

_DOCUMENT = re.compile(r"<document\b[^>]*>(.*?)</document>", re.DOTALL)
_DOCUMENTS = re.compile(r"<documents>.*?</documents>", re.DOTALL)
_SENTENCE = re.compile(r"(?<=[.!?])\s+|\n+")
_WORD = re.compile(r"\w+")
_COMMON = frozenset(
    [
        "a",
        "an",
        "and",
        "are",
        "as",
        "at",
        "be",
        "by",
        "can",
        "do",
        "does",
        "for",
        "from",
        "how",
        "i",
        "in",
        "is",
        "it",
        "me",
        "my",
        "of",
        "on",
        "or",
        "our",
        "tell",
        "that",
        "the",
        "their",
        "this",
        "to",
        "was",
        "we",
        "what",
        "when",
        "where",
        "which",
        "who",
        "whom",
        "why",
        "will",
        "with",
        "you",
        "your",
    ]
)

DOCUMENT_SCORE = 0.34
"""A document's sentence below this does not answer the question (cosine plus share of words in common)."""
CONTEXT_SCORE = 0.75
"""Instructions are matched more strictly: they are about how to answer, not what."""


def text_of(message: dict[str, Any]) -> str:
    """A message's text, whether its content is a string or a list of parts."""
    content = message.get("content")
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "\n".join(part.get("text", "") for part in content if isinstance(part, dict))
    return ""


def sentences(text: str) -> list[str]:
    """A text's sentences and lines, without the marks of lists and headings."""
    return [part for raw in _SENTENCE.split(text) if len(part := raw.strip(" \t#*->|")) > 2]


def answer(messages: Sequence[dict[str, Any]], embedder: Embedder) -> str:
    """The answer to the last user message, from the documents first and from the other messages second."""
    asked = [index for index, message in enumerate(messages) if message.get("role") == "user"]
    if not asked:
        return GREETING
    question = text_of(messages[asked[-1]])
    before = [text_of(message) for index, message in enumerate(messages) if index != asked[-1]]
    documents = [
        sentence for text in before for body in _DOCUMENT.findall(text) for sentence in sentences(html.unescape(body))
    ]
    if found := _best(question, documents, embedder, DOCUMENT_SCORE):
        return found
    others = [sentence for text in before for sentence in sentences(_DOCUMENTS.sub("\n", text))]
    return _best(question, others, embedder, CONTEXT_SCORE) or UNKNOWN


def _best(question: str, candidates: list[str], embedder: Embedder, threshold: float) -> str:
    """Up to two sentences that match best, in their order; empty where none reaches the threshold."""
    candidates = list(dict.fromkeys(candidates))
    if not candidates or not question.strip():
        return ""
    vectors = embedder.embed([question, *candidates])
    words = _words(question)
    scores = [
        float(vector @ vectors[0]) + 0.3 * len(words & _words(text)) / max(1, len(words))
        for vector, text in zip(vectors[1:], candidates, strict=True)
    ]
    top = max(scores)
    if top < threshold:
        return ""
    ranked = sorted(range(len(candidates)), key=lambda index: -scores[index])[:2]
    chosen = [index for index in ranked if scores[index] >= max(threshold, 0.9 * top)]
    return " ".join(candidates[index] for index in sorted(chosen))


def _words(text: str) -> set[str]:
    return {word for word in _WORD.findall(text.lower()) if word not in _COMMON}
