"""The turns between two answers of the model: in the order and the number a template wants.

A *run* is a sequence of answers, usually one, and all messages up to the next answer: the results
of the calls, and what the user said.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

from cortexd.dialects.fitting import words
from cortexd.dialects.fitting.calls import Pairing
from cortexd.dialects.fitting.contents import BETWEEN_PARTS, BETWEEN_TURNS, joined
from cortexd.dialects.fitting.pictures import pulled_out
from cortexd.dialects.wire.approximations import Approximations
from cortexd.dialects.wire.json_values import JsonObject
from cortexd.dialects.wire.profile import Profile


def runs(messages: Iterable[JsonObject]) -> Iterator[tuple[list[JsonObject], list[JsonObject]]]:
    """Yield the answers and the other messages of each run; the first may have no answers."""
    answers: list[JsonObject] = []
    others: list[JsonObject] = []
    for message in messages:
        if message["role"] != "assistant":
            others.append(message)
            continue
        if others:
            yield answers, others
            answers, others = [], []
        answers.append(message)
    if answers or others:
        yield answers, others


def without_silence(
    messages: Sequence[JsonObject], approximations: Approximations
) -> list[JsonObject]:
    """Return the messages without the answers that say nothing: templates may raise for one.

    The last message stays, because the model may be about to continue it, and so do thoughts before
    another answer.
    """
    kept: list[JsonObject] = []
    for message in reversed(messages):
        after = kept[-1] if kept else None
        says = message["role"] != "assistant" or message["content"] or "tool_calls" in message
        thinks_on = after is not None and after["role"] == "assistant"
        if says or after is None or (thinks_on and "reasoning_content" in message):
            kept.append(message)
        else:
            approximations.note("empty_answer")
    kept.reverse()
    return kept


class RunFitter:
    """Fits the runs of one conversation, in order."""

    def __init__(self, profile: Profile, approximations: Approximations) -> None:
        self._profile = profile
        self._approximations = approximations
        self._pairing = Pairing(profile.tool_id_format, approximations)

    def fitted(self, answers: list[JsonObject], others: list[JsonObject]) -> list[JsonObject]:
        """Return the messages of a run."""
        if (
            len(answers) == len(others) == 1
            and others[0]["role"] == "user"
            and "tool_calls" not in answers[0]
        ):
            return [answers[0], others[0]]
        *earlier, last = self._answers(answers) if answers else [None]
        calls, results, said = self._pairing.paired((last or {}).get("tool_calls", ()), others)
        media: list[JsonObject] = []
        for result in results:
            result["content"] = pulled_out(result["content"], media, self._approximations)
        if media:
            said = _with_media(media, said)
        messages = [message for message in earlier if message is not None]
        if last is not None and not calls:
            messages.append(last)
        elif last is not None and not self._profile.tool_turns:
            self._approximations.note("tool_turns")
            messages.append(_told(last))
            said = [{"role": "user", "content": _told_results(results)}, *said]
        elif last is not None:
            messages += self._called({**last, "tool_calls": calls}, results)
        said = self._said(said)
        if (
            not self._profile.user_after_tool
            and said
            and said[0]["role"] == "user"
            and messages
            and messages[-1]["role"] == "tool"
        ):
            self._approximations.note("user_after_tool")
            messages.append({"role": "assistant", "content": words.READ})
        return messages + said

    def _answers(self, answers: Sequence[JsonObject]) -> Sequence[JsonObject]:
        """Return the answers of a run, of which only the last has calls.

        If another one has calls, all become one message, because the results come directly after
        the calls.
        """
        if len(answers) == 1:
            return answers
        if not self._profile.alternate and not any("tool_calls" in each for each in answers[:-1]):
            return answers
        contents, thoughts = [], []
        calls: list[JsonObject] = []
        for answer in answers:
            if answer["content"] and calls:
                self._approximations.note("text_after_tool_use")
            contents.append(answer["content"])
            if "reasoning_content" in answer:
                thoughts.append(answer["reasoning_content"])
            calls += answer.get("tool_calls", ())
        together: JsonObject = {"role": "assistant", "content": joined(contents, BETWEEN_TURNS)}
        if thoughts:
            together["reasoning_content"] = "\n".join(thoughts)
        if calls:
            together["tool_calls"] = calls
        return [together]

    def _called(self, answer: JsonObject, results: list[JsonObject]) -> Iterator[JsonObject]:
        """Yield an answer with calls, and the results."""
        profile = self._profile
        if answer["content"] and not profile.text_beside_calls:
            self._approximations.note("text_beside_calls")
            calls = answer["tool_calls"]
            yield {name: value for name, value in answer.items() if name != "tool_calls"}
            if profile.alternate:
                yield {"role": "user", "content": words.GO_ON}
            answer = {"role": "assistant", "content": "", "tool_calls": calls}
        if len(results) == 1 or profile.parallel_calls:
            yield answer
            yield from results
            return
        self._approximations.note("parallel_calls")
        by_id = {result["tool_call_id"]: result for result in results}
        for call in answer["tool_calls"]:
            yield {**answer, "tool_calls": [call]}
            yield by_id[call["id"]]
            answer = {"role": "assistant", "content": ""}

    def _said(self, messages: list[JsonObject]) -> list[JsonObject]:
        """Return the messages of the user, those in a row as one if turns must alternate."""
        if len(messages) < 2 or not self._profile.alternate:
            return messages
        together: list[JsonObject] = []
        for role, group in groupby(messages, lambda message: message["role"]):
            turns = list(group)
            if role == "user" and len(turns) > 1:
                if any("name" in turn for turn in turns):
                    self._approximations.note("name")
                content = joined([turn["content"] for turn in turns], BETWEEN_TURNS)
                turns = [{"role": role, "content": content}]
            together += turns
        return together


def _with_media(media: list[JsonObject], said: list[JsonObject]) -> list[JsonObject]:
    """Return the messages with the media of the results at the head of the first user turn."""
    if not said or said[0]["role"] != "user":
        return [{"role": "user", "content": media}, *said]
    first = said[0]
    content = joined([media, first["content"]], BETWEEN_PARTS)
    return [{**first, "content": content}, *said[1:]]


def _told(answer: JsonObject) -> JsonObject:
    """Return an answer with its calls in words."""
    functions = [call["function"] for call in answer["tool_calls"]]
    texts = [words.called(function["name"], function["arguments"]) for function in functions]
    told = {name: value for name, value in answer.items() if name != "tool_calls"}
    return {**told, "content": joined([answer["content"], *texts], BETWEEN_TURNS)}


def _told_results(results: list[JsonObject]) -> str:
    return BETWEEN_TURNS.join(words.answered(each["name"], each["content"]) for each in results)


def begun(
    messages: list[JsonObject], approximations: Approximations, *, has_system_text: bool
) -> list[JsonObject]:
    """Return the messages with a user turn at their head.

    ``has_system_text`` means that the text of the system prompt will be that turn.
    """
    if messages and messages[0]["role"] != "assistant":
        return messages
    if has_system_text:
        return [{"role": "user", "content": ""}, *messages]
    approximations.note("opening_turn")
    return [{"role": "user", "content": words.OPENING}, *messages]
