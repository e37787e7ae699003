"""The conversations that every chat template is rendered with."""

import itertools

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather of a city: \"now\" & <soon>",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "description": "The city, e.g. Zürich"},
                "unit": {"type": "string", "enum": ["celsius", "fahrenheit"], "default": "celsius"},
                "days": {"type": "array", "items": {"type": "integer"}, "minItems": 1},
                "where": {
                    "type": "object",
                    "properties": {"lat": {"type": "number"}, "lon": {"type": ["number", "null"]}},
                    "required": ["lat"],
                },
            },
            "required": ["city"],
        },
        "return": {"type": "string", "description": "A sentence"},
    },
}
TIME = {
    "type": "function",
    "function": {
        "name": "get_time",
        "description": "The time",
        "parameters": {"type": "object", "properties": {}, "additionalProperties": False},
    },
}


def call(number, name, arguments):
    return {"id": f"call{number:05}", "type": "function", "function": {"name": name, "arguments": arguments}}


USER = {"role": "user", "content": "What is 2 + 2?"}
SYSTEM = {"role": "system", "content": "You are terse.\nVery."}
ANSWER = {"role": "assistant", "content": "Four."}
ASK = {"role": "user", "content": "Weather in Zürich?"}
RESULT = {"role": "tool", "name": "get_weather", "tool_call_id": "call00001", "content": "{\"t\": 21.5}"}
PARTS = {"role": "user", "content": [{"type": "text", "text": "One. "}, {"type": "text", "text": "Two."}]}
IMAGE = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is this?"}]}
THINKING = "<think>\nTwo and two.\n</think>\n\nFour."
CALLS = {"role": "assistant", "content": "", "tool_calls": [call(1, "get_weather", {"city": "Zürich", "days": [1, 2]})]}
CALLS_NULL = {**CALLS, "content": None}
CALLS_TEXT = {**CALLS, "content": "Let me look."}
CALLS_STRING = {"role": "assistant", "content": "", "tool_calls": [call(1, "get_weather", "{\"city\": \"Zürich\"}")]}
CALLS_TWO = {
    "role": "assistant",
    "content": "",
    "tool_calls": [call(1, "get_weather", {"city": "Bern"}), call(2, "get_time", {})],
}
RESULT_TWO = {"role": "tool", "name": "get_time", "tool_call_id": "call00002", "content": "12:00"}

MESSAGES = {
    "plain": [USER],
    "system": [SYSTEM, USER],
    "multi-turn": [SYSTEM, USER, ANSWER, {"role": "user", "content": "And 3 + 3?"}],
    "answered": [USER, ANSWER],
    "long": [SYSTEM] + [USER, ANSWER] * 5 + [USER],
    "empty content": [{"role": "user", "content": ""}],
    "empty system": [{"role": "system", "content": ""}, USER],
    "white space": [{"role": "system", "content": "  \n a \n"}, {"role": "user", "content": "\n\tb  \n\n"}],
    "unicode": [{"role": "user", "content": "日本語 🎉 e\u0301 \u200b ß İ \U0001f468\u200d\U0001f469"}],
    "quotes": [{"role": "user", "content": "\"a\" 'b' \\n <b>&amp;</b> {{ x }} {% if %} <|im_end|>"}],
    "no messages": [],
    "bad order": [USER, USER],
    "assistant first": [ANSWER, USER],
    "system late": [USER, SYSTEM],
    "unknown role": [{"role": "wizard", "content": "hm"}],
    "developer": [{"role": "developer", "content": "Be kind."}, USER],
    "parts": [SYSTEM, PARTS],
    "system parts": [{"role": "system", "content": [{"type": "text", "text": "Terse."}]}, PARTS],
    "image": [IMAGE],
    "answer parts": [USER, {"role": "assistant", "content": [{"type": "text", "text": "Four."}]}, USER],
    "no content": [USER, {"role": "assistant"}, USER],
    "null content": [USER, {"role": "assistant", "content": None}],
    "thinking": [USER, {"role": "assistant", "content": THINKING}, USER],
    "thinking last": [USER, {"role": "assistant", "content": THINKING}],
    "reasoning": [USER, {**ANSWER, "reasoning_content": "Two and two."}, USER, {**ANSWER, "reasoning_content": "\nHm.\n"}],
    "thinking field": [USER, {**ANSWER, "thinking": "Two and two."}, USER],
    "call": [ASK, CALLS],
    "call, result": [SYSTEM, ASK, CALLS, RESULT],
    "call, result, answer": [ASK, CALLS_TEXT, RESULT, {"role": "assistant", "content": "21.5 °C."}, USER],
    "null call": [ASK, CALLS_NULL, RESULT],
    "string arguments": [ASK, CALLS_STRING, RESULT],
    "two calls": [ASK, CALLS_TWO, RESULT, RESULT_TWO, ANSWER, USER],
    "result parts": [ASK, CALLS, {**RESULT, "content": [{"type": "text", "text": "21.5"}]}],
    "result object": [ASK, CALLS, {**RESULT, "content": {"t": 21.5, "ok": True, "x": None}}],
    "think and call": [ASK, {**CALLS, "reasoning_content": "Need weather."}, RESULT, ANSWER],
}
TOOLS = {"none": None, "one": [WEATHER], "two": [WEATHER, TIME]}
OPTIONS = {
    "": {},
    "thinking": {"enable_thinking": True, "reasoning_effort": "high", "thinking": True},
    "no thinking": {"enable_thinking": False, "date_string": "2024-07-26", "builtin_tools": ["browser", "python"]},
    "options": {
        "tools_in_user_message": False,
        "keep_past_thinking": True,
        "preserve_thinking": True,
        "documents": [{"title": "T", "text": "A document."}],
        "model_identity": "I am lserve.",
    },
}


def conversations():
    """(name, context) of every case."""
    for (name, messages), (tool_name, tools), (option_name, options), prompt in itertools.product(
        MESSAGES.items(), TOOLS.items(), OPTIONS.items(), (True, False)
    ):
        if tool_name == "two" and option_name:
            continue
        context = {
            "messages": messages,
            "tools": tools,
            "documents": None,
            "add_generation_prompt": prompt,
            "bos_token": "<s>",
            "eos_token": "</s>",
            "pad_token": "<pad>",
            "unk_token": "<unk>",
            **options,
        }
        yield f"{name}, tools {tool_name}, {option_name or 'plain'}, prompt {prompt}", context


# What the snippets may use.
CONTEXTS = {
    "messages": [SYSTEM, USER, ANSWER, CALLS_TWO],
    "tools": [WEATHER, TIME],
    "s": "Hello, Wörld!",
    "text": "  two  words \n",
    "lines": "a\n\n  b\r\nc",
    "n": 7,
    "f": 2.5,
    "yes": True,
    "nothing": None,
    "numbers": [3, 1, 2, 3],
    "words": ["pear", "Apple", "fig", "apple"],
    "d": {"b": 2, "a": 1, "items": "own", "C": [1, {"x": None}]},
    "users": [{"name": "Bo", "age": 30}, {"name": "al", "age": 25}, {"name": "Cy"}],
    "emoji": "a🎉ü",
    "nested": [[1, 2], [3, [4]]],
}
