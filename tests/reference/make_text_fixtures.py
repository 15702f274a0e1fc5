"""Writes tests/fixtures/templates.json.gz, masks.json.gz, dates.json and tokenizers/: what transformers makes of conversations by
published chat templates, and what the Python tokenizers make of awkward text. Run it again only when a fixture has
to change; its output is committed. Of kinds.json.gz each run makes another: most trainers of `tokenizers` break ties by
chance.

    python tests/reference/make_text_fixtures.py FOLDER_WITH_REAL_TEMPLATES_AND_TOKENIZERS
"""

import datetime
import gzip
import json
import random
import sys
from pathlib import Path

from blake3 import blake3
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizerFast
from transformers.utils import chat_template_utils

FIXTURES = Path(__file__).resolve().parent.parent / "fixtures"
# What `strftime_now` tells: a result must not depend on the day.
DATE = datetime.datetime(2025, 3, 9)
SPECIAL = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}


def write(path, value):
    """Compact; compressed where the name says so, without a time, so that the same value gives the same bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = (json.dumps(value, ensure_ascii=False, separators=(",", ":")) + "\n").encode()
    path.write_bytes(gzip.compress(data, 9, mtime=0) if path.suffix == ".gz" else data)


def user(content):
    return {"role": "user", "content": content}


def assistant(content, **more):
    return {"role": "assistant", "content": content, **more}


def system(content):
    return {"role": "system", "content": content}


WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather of a place & time; says \"n/a\" for <unknown> places.",
        "parameters": {
            "type": "object",
            "properties": {
                "place": {"type": "string", "description": "Stadt, z. B. Köln"},
                "days": {"type": "integer", "default": 1, "minimum": 1},
                "unit": {"type": "string", "enum": ["°C", "°F"]},
            },
            "required": ["place"],
        },
    },
}
CLOCK = {
    "type": "function",
    "function": {"name": "now", "description": "The time.", "parameters": {"type": "object", "properties": {}}},
}


def call(name, arguments, number="abcdefgh1"):
    return {"type": "function", "id": number, "function": {"name": name, "arguments": arguments}}


def result(content, number="abcdefgh1"):
    return {"role": "tool", "name": "get_weather", "tool_call_id": number, "content": content}


THOUGHT = "<think>\nsum\n</think>\n\n4"
KOELN = {"place": "Köln", "days": 2, "unit": "°C", "exact": True, "limit": None, "ratio": 0.5}
# Name: what a template is given beside special tokens and `add_generation_prompt`.
CONVERSATIONS = {
    "question": {"messages": [user("What is 2 + 2?")]},
    "system": {"messages": [system("Be brief."), user(" <b>Hi</b> \n")]},
    "answered": {"messages": [user("2 + 2?"), assistant(THOUGHT)]},
    "turns": {"messages": [user("2 + 2?"), assistant(THOUGHT), user("And 3 + 3?"), assistant("6")]},
    "turns that reason": {
        "messages": [system("Think."), user("2 + 2?"), assistant(THOUGHT), user("3 + 3?"), assistant(THOUGHT)]
    },
    "asked again": {"messages": [user("2 + 2?"), assistant("4"), user("And 3 + 3?")]},
    "reasoning apart": {
        "messages": [user("2 + 2?"), assistant("4", reasoning_content="sum\nof two"), user("?"), assistant("!")]
    },
    "reasoning by its old name": {"messages": [user("2 + 2?"), assistant("4", reasoning="sum")]},
    "not thinking": {"messages": [user("2 + 2?")], "enable_thinking": False},
    "thinking": {"messages": [user("2 + 2?"), assistant(THOUGHT)], "enable_thinking": True, "thinking": True},
    "empty contents": {"messages": [system(""), user(""), assistant("")]},
    "awkward characters": {
        "messages": [
            system("“Quotes” & <html> 'single' \"double\" \\n {{ not a template }} {% nor this %}"),
            user("naïve 日本語 🙂👩‍👩‍👧 \u200b\u00a0e\u0301 \r\n\ttabs\r\n\r\n  "),
            assistant("\n\n<|im_end|></s><b>&amp;</b>\n"),
        ]
    },
    "assistant first": {"messages": [assistant("Hello")]},
    "two users": {"messages": [user("One."), user("Two.")]},
    "two systems": {"messages": [system("One."), system("Two."), user("Three.")]},
    "system last": {"messages": [user("One."), assistant("Two."), system("Three.")]},
    "content in parts": {
        "messages": [user([{"type": "text", "text": "One "}, {"type": "text", "text": "two"}]), assistant("Three")]
    },
    "tools": {"messages": [system("Be brief."), user("Weather in Köln?")], "tools": [WEATHER, CLOCK]},
    "tool call": {
        "messages": [user("Weather in Köln?"), assistant(None, tool_calls=[call("get_weather", KOELN)])],
        "tools": [WEATHER],
    },
    "tool call as text": {
        "messages": [
            user("Weather in Köln?"),
            assistant("Let me see.", tool_calls=[call("get_weather", '{"place": "Köln"}')]),
        ],
    },
    "tool result": {
        "messages": [
            user("Weather in Köln?"),
            assistant("", tool_calls=[call("get_weather", {"place": "Köln"})]),
            result('{"sky": "heiter", "t": 21.5}'),
            assistant("<think>\nwarm\n</think>\n\nSunny, 21.5 °C."),
        ],
        "tools": [WEATHER],
    },
    "tool result to answer": {
        "messages": [
            user("Weather in Köln?"),
            assistant("", tool_calls=[call("get_weather", {"place": "Köln"})]),
            result("<heiter>"),
        ],
    },
    "two tool calls": {
        "messages": [
            user("Weather in Köln and Bonn?"),
            assistant(
                "",
                tool_calls=[
                    call("get_weather", {"place": "Köln"}),
                    call("get_weather", {"place": "Bonn"}, "abcdefgh2"),
                ],
            ),
            result("fair"),
            result("rain", "abcdefgh2"),
        ],
        "tools": [WEATHER],
    },
    "documents": {
        "messages": [user("Who?")],
        "documents": [{"title": "A & B", "text": "It was <them>."}],
    },
    "a given date": {"messages": [user("Today?")], "date_string": "1 May 2020", "tools_in_user_message": False},
}
# Constructs that published templates use and the templates at hand do not; each with its own source.
SNIPPETS = {
    "json": "{{ v | tojson }}|{{ v | tojson(indent=2) }}|{{ v | tojson(sort_keys=True) }}|{{ v | tojson(ensure_ascii=True) }}"
    "|{{ v | tojson(separators=(',', ':')) }}|{{ v | tojson(indent=1, sort_keys=true, separators=(',', ': ')) }}",
    "json of empty": "{{ [] | tojson(indent=2) }}{{ {} | tojson(indent=2) }}{{ '' | tojson }}{{ none | tojson }}",
    "numbers": "{{ 1.0 }} {{ 1e20 }} {{ 1e-7 }} {{ 3 / 2 }} {{ 7 // 2 }} {{ 7 % 3 }} {{ 2 ** 8 }} {{ [0.1, 1e16, -0.0] | tojson }}",
    "printed": "{{ none }} {{ true }} {{ [1, 'a', none, 1.5] }} {{ {'a': true, 'b': \"it's\"} }} {{ missing }} {{ 'a' ~ 1 ~ none }}",
    "strings": "{{ ' a-b ' | trim }}|{{ 'aXbX' | replace('X', '') }}|{{ ['a', 1] | join(', ') }}|{{ 'abc'[::-1] }}|{{ 'abc'[1:] }}"
    "|{{ 'abc'[-1] }}|{{ 'a b'.split() }}|{{ 'a,b,c'.split(',', 1) }}|{{ 'x'.strip() }}|{{ 'xxa'.lstrip('x') }}"
    "|{{ 'abc'.find('c') }}|{{ 'AbC'.lower() }}|{{ 'ab c'.title() }}|{{ 'abc' | length }}|{{ 'abc' | upper }}|{{ 'äb' | capitalize }}",
    "kinds": "{{ 'a' is string }} {{ 'a' is iterable }} {{ 'a' is sequence }} {{ {} is mapping }} {{ {} is iterable }} {{ [] is sequence }}"
    " {{ 1 is number }} {{ true is boolean }} {{ none is none }} {{ x is defined }} {{ 1 is integer }} {{ 1.5 is float }}"
    " {{ true is true }} {{ 'a' in 'abc' }} {{ 'k' in {'k': 1} }} {{ 3 is odd }} {{ {} is sequence }} {{ none is iterable }}",
    "lists": "{{ v.items() | list }} {{ v | length }} {{ v.keys() | list }} {{ messages | map(attribute='role') | list }}"
    " {{ messages | selectattr('role', 'equalto', 'user') | list | length }} {{ messages | rejectattr('role', '==', 'user') | list }}"
    " {{ [3, 1, 2] | sort }} {{ [1, 2, 3] | first }} {{ [1, 2] | last }} {{ (1, 2) }} {{ range(3) | list }} {{ [1, 2] + [3] }}"
    " {{ v | dictsort }} {{ v.get('b') }} {{ v.get('zz', 'no') }} {{ [1, 1, 2] | unique | list }} {{ [[1, 2], [3]] | sum(start=[]) }}",
    "loops": "{% for c in 'ab' %}{{ loop.index }}{{ c }}{% endfor %}{% for i in range(5) %}{% if i == 1 %}{% continue %}{% endif %}"
    "{% if i == 3 %}{% break %}{% endif %}{{ i }}{{ loop.first }}{% else %}none{% endfor %}{% for a, b in {'k': 1}.items() %}{{ a }}{{ b }}{% endfor %}"
    "{% for x in [] %}x{% else %}empty{% endfor %}{% for m in messages %}{{ loop.previtem is defined }}{{ loop.nextitem is defined }}{{ loop.revindex0 }}{% endfor %}",
    "macros": "{% macro say(a, b='x') %}[{{ a }}{{ b }}]{% endmacro %}{{ say(1) }}{{ say(1, b=2) }}"
    "{% set ns = namespace(n=0, l=[]) %}{% for i in range(3) %}{% set ns.n = ns.n + i %}{% endfor %}{{ ns.n }}"
    "{% set block %}a{{ ns.n }}{% endset %}{{ block | length }}{{ block }}{% filter upper %}abc{% endfilter %}"
    "{% macro wrap(a) %}[{{ a }}{{ caller() }}]{% endmacro %}{% call wrap(5) %}inside{% endcall %}",
    "blanks": "  {% if true %}\n  a\n  {% endif %}\n  {%- if true %}  b  {%- endif %}  \n\n {# note #}\n x {#- note -#} y \n{{ 'z' }}\n\n",
    "raw": "{% raw %}{{ a }}{% endraw %}{{ '{{' }}\\n{{ '\\n\\t\\u00e9\\x41' }}",
    "conditions": "{{ 'a' if x is defined else 'b' }}{{ 'c' if false }}{{ x | default('d') }}{{ '' | default('e', true) }}{{ (x or 'f') }}"
    "{{ not x }}{{ 1 == 1.0 }}{{ 'a' == 'a' and 2 > 1 }}{{ [] or 'g' }}{{ 1 < 2 < 3 }}{{ none == none }}{{ 'a' not in ['b'] }}",
    "dates": "{{ strftime_now('%d %b %Y|%Y-%m-%d|%A, %B %-d, %Y|%H:%M:%S|%a %j %y %p %I %w %u %%|%-m/%-d|%U %W %V %G|%D %F %T|%e') }}",
    "dict": "{{ dict(a=1, b='x') }}{{ dict(a=1) | tojson }}",
    "no attribute of undefined": "{{ missing.attribute }}",
    "no sum with undefined": "{{ 'a' + missing }}",
    "no sum with none": "{{ 'a' + none }}",
    "no item behind the end": "{{ [1][3] }}x",
    "first of nothing": "{{ [] | first }}x",
    "own error": "{{ raise_exception('roles must alternate') }}",
    "format": "{{ '%s-%d' | format('a', 3) }}{{ '{}-{}'.format(1, 'b') }}{{ 'a' * 3 }}{{ 'x' | string }}{{ 3 | string }}{{ '3' | int + 1 }}{{ 'abc' | list }}",
    "printed floats": "{{ 1e16 }} {{ 123456789012345678.0 }} {{ [1e-5, 1e22] }} {{ 1e20 | string }} {{ 0.1 + 0.2 }} {{ 5e-324 }} {{ 10 / 2 }} {{ -0.0 }}",
    "printed texts": "{{ ['\u2028\u200b\u00a0\u3000\ufeff\x7f\x85é', \"it's\", '\"', \"'\\\"\", 'a\\\\b\\n\\t'] }}{{ (1,) }}{{ [(1, 'a')] }}{{ {1: none} }}",
    "recursion": "{% macro count(n) %}{{ n }}{% if n > 0 %} {{ count(n - 1) }}{% endif %}{% endmacro %}{{ count(3) }}"
    "{% macro type(s) -%}{%- if s.kind == 'list' -%}{{ type(s.of) }}[]{%- else -%}{{ s.kind }}{%- endif -%}{%- endmacro %}{{ type({'kind': 'list', 'of': {'kind': 'int'}}) }}",
    "filters": "{{ 'a\nb' | indent(2) }}|{{ {'k': 1} | items | list }}|{{ '<b>' | safe }}|{{ 'x' | default('y') }}|{{ [1, 2, 3] | reject('odd') | list }}"
    "|{{ ['b', 'a'] | sort | join('') }}|{{ [1, 2] | sum }}|{{ [3, 1] | min }}|{{ 'abc' | reverse }}|{{ -3 | abs }}|{{ 2.6 | round }}"
    "|{{ [1, 2, 3, 4] | batch(2) | list }}|{{ '1.5' | float }}|{{ ['a'] | map('upper') | list }}|{{ '<' | e }}|{{ [{'a': 1}] | map(attribute='a') | first }}",
    "methods": "{{ 'a-b-c'.rsplit('-', 1) }}{{ 'a-b-c'.rsplit('-') }}{{ 'a b '.rsplit() }}|{{ 'abc'.removeprefix('a') }}{{ 'abc'.removeprefix('b') }}"
    "|{{ 'abc'.removesuffix('c') }}|{{ 'a=b=c'.partition('=') }}{{ 'a'.partition('=') }}{{ 'a=b=c'.rpartition('=') }}{{ 'a'.rpartition('=') }}"
    "|{{ 'éabc'.index('c') }}|{{ 'abc'.endswith(('x', 'c')) }}|{{ ' a '.strip() }}|{{ 'a\u00a0'.strip() }}|{{ [1, 2, 1].count(1) }}|{{ ['a', 'b'].index('b') }}|{{ {'a': 1}.values() | list }}",
    "no index of what is absent": "{{ 'abc'.index('z') }}",
    "scopes": "{% set x = 1 %}{% for i in [1] %}{% set x = 2 %}{{ x }}{% endfor %}{{ x }}{% if true %}{% set x = 3 %}{% endif %}{{ x }}{% with y = 4 %}{{ y }}{% endwith %}{{ y }}"
    "{% set a, b = 1, 2 %}{{ a }}{{ b }}{% set z %}{{ x }}!{% endset %}{{ z }}",
    "filtered loops": "{% for m in messages if m.role != 'user' %}{{ loop.index }}{{ loop.length }}{{ m.role }}{% endfor %}{% for m in messages[1:] %}{{ m.content }}{% endfor %}"
    "{% for x in [1, 2, 3] | batch(2) %}{{ x }}{% endfor %}{% for i in [1, 2] %}{% for j in [3] %}{{ loop.index }}{% endfor %}{{ loop.cycle('a', 'b') }}{{ loop.changed(i) }}{% endfor %}",
    "tests": "{{ 4 is divisibleby 2 }}{{ 'a' is in ['a'] }}{{ 'a' is eq 'a' }}{{ 1 is lt 2 }}{{ 'A' is upper }}{{ missing is undefined }}{{ v is not string }}{{ 'tojson' is filter }}{{ false is false }}",
    "arithmetic": "{{ -7 // 2 }} {{ -7 % 3 }} {{ 7 / 2 }} {{ 2 ** -1 }} {{ 1 + true }} {{ [1] * 3 }} {{ 10 ** 20 }} {{ 3.0 == 3 }} {{ 'a' < 'b' }} {{ [1, 2] < [1, 3] }}",
    "comments": "{# a {% generation %} #}b{#- c -#} d {%- raw %} {# e #} {% endraw -%} f",
    "line ends": "a\r\nb\r\n{% if true %}\r\nc\r\n{% endif %}\r\n",
    "generation": "a{% generation %}b{% set x = 1 %}{% endgeneration %}{{ x }}\n  {%- generation -%}  c  {%- endgeneration %}\n  d\n  {% generation %}\n  e\n  {% endgeneration %}\n  f",
}
# What Jinja2 has and the engine here has not: refused, never rendered otherwise.
BEYOND = {
    "percent": "{{ '%s and %d' % ('a', 3) }}",
    "words": "{{ 'a b' | wordcount }}",
    "callable": "{{ raise_exception is callable }}",
    "variable arguments": "{% macro all() %}{{ varargs }}{{ kwargs }}{% endmacro %}{{ all(1, 2, a=3) }}",
    "pretty": "{{ {'a': 1} | pprint }}",
    "aligned": "{{ 'a' | center(5) }}{{ 'ab'.zfill(4) }}{{ 'ab'.ljust(4) }}",
}
VALUE = {"b": [1, 2.5, None, True], "a": "<é'\"\\/&\u2028\u007f\n🙂>", "c": {}, "d": {"z": [], "y": {"x": 1e22}}}


def cleaned(messages):
    """As `apply_chat_template`: what is None is as if it were not there."""
    return [{key: value for key, value in message.items() if value is not None} for message in messages]


class FixedClock(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return DATE


def rendered(source, given, is_open):
    try:
        given = dict(given, messages=cleaned(given["messages"]))
        texts, _ = chat_template_utils.render_jinja_template(
            [given.pop("messages")], chat_template=source, add_generation_prompt=is_open, **SPECIAL, **given
        )
        return {"text": texts[0]}
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}


def templates(folder):
    chat_template_utils.datetime = FixedClock
    cases = []
    for path in sorted((folder / "chat_templates").glob("*.jinja")):
        source = path.read_text()
        for name, given in CONVERSATIONS.items():
            for is_open in (False, True):
                case = rendered(source, given, is_open)
                cases.append({"template": path.name, "conversation": name, "open": is_open, **case})
    snippets = []
    for name, source in SNIPPETS.items():
        given = {"messages": [user("u"), assistant("a")], "v": VALUE}
        snippets.append({"name": name, "source": source, **rendered(source, given, False)})
    beyond = [{"name": name, "source": source} for name, source in BEYOND.items()]
    assert all("text" in rendered(case["source"], given, False) for case in beyond)
    write(
        FIXTURES / "templates.json.gz",
        {
            "special": SPECIAL,
            "date": DATE.strftime("%Y-%m-%d"),
            "value": VALUE,
            "conversations": {
                name: dict(given, messages=cleaned(given["messages"])) for name, given in CONVERSATIONS.items()
            },
            "cases": cases,
            "snippets": snippets,
            "beyond": beyond,
        },
    )
    failed = sum("error" in case for case in cases)
    print(f"{len(cases)} renders, {failed} of them refused; {len(snippets)} snippets")


def masks(folder):
    """`return_assistant_tokens_mask` by the templates with generation blocks, in tokens of Qwen2.5."""
    made = real(folder / "tokenizers/qwen2.5/tokenizer.json.gz")
    fast = PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    cases = []
    for path in sorted((folder / "chat_templates").glob("*_training.jinja")):
        for name, given in CONVERSATIONS.items():
            given = dict(given)
            messages = given.pop("messages")
            try:
                made = fast.apply_chat_template(
                    messages,
                    chat_template=path.read_text(),
                    tokenize=True,
                    return_dict=True,
                    return_assistant_tokens_mask=True,
                    **given,
                )
            except Exception:
                continue
            ids, mask = made["input_ids"], made["assistant_masks"]
            case = {"template": path.name, "conversation": name}
            # Runs: how many tokens are no target, how many are, and so on.
            runs, current = [0], 0
            for bit in mask:
                if bit != current:
                    runs.append(0)
                    current = bit
                runs[-1] += 1
            cases.append({**case, "ids": digest(ids), "tokens": len(ids), "runs": runs})
    write(FIXTURES / "masks.json.gz", {"tokenizer": "tokenizers/qwen2.5", "cases": cases})
    print(f"{len(cases)} masks")


def dates():
    """Days as `strftime` writes them."""
    text = "%d %e %b %B %Y %y %a %A %w %u %j %U %W %V %G %H:%M:%S %I %p %-d %-m %-j %F %D %%"
    days = [datetime.date(1968, 2, 29) + datetime.timedelta(days=i * 293) for i in range(90)]
    # Weeks of ISO 8601 at the border of years.
    days += [datetime.date(year, *day) for year in range(2004, 2012) for day in ((1, 1), (12, 31))]
    write(FIXTURES / "dates.json", {"format": text, "days": {str(day): day.strftime(text) for day in days}})


def digest(ids):
    return blake3(b"".join(i.to_bytes(4, "little") for i in ids)).hexdigest()


TEXTS = [
    "",
    " ",
    "Hello world",
    " Hello  world \n",
    "don't I'LL we've",
    "12345 + 67.8 = 12412.8; 1,000,000 ½ ² ٣ Ⅻ",
    "naïve café — “quotes” …",
    "日本語のテキスト、한국어, हिन्दी क्षत्रिय ภาษาไทย עברית العربية",
    "🙂👩‍👩‍👧👍🏽🇩🇪1️⃣ \u200b\u00a0end",
    "tabs\tand\r\nwindows\r\n\r\nlines   \n   indented\n\n\n\tx",
    "<think>2+2</think><answer>4</answer>",
    "<|im_start|>user\nHi<|im_end|>\n<|endoftext|>",
    "<s>in text</s> <unk>",
    "x" * 50 + " " * 20 + "!" * 30,
    "\x00\x01\x1f\x7f\x85nul",
    "\ufffd \ufffd\ufffda \ufeffbom",
    "e\u0301 \u0301alone ﬁ Å ﷺ ǅ İı ß",
    "\u2028line\u2029paragraph\u3000wide",
    "  \n \n\t ",
    "▁ Ġ Ċ <0x41> <0xZZ> ##ing",
    "  leading and trailing  ",
    "𝕳𝖊𝖑𝖑𝖔 𐍈 \U0010ffff \ue000",
    "a.b,c;d:e?f!g(h)[i]{j}'k\"l",
    "CamelCase snake_case kebab-case x=1 //comment\n#include <a>",
    "[CLS] text [SEP] [MASK] <mask>  <mask> x<mask>y <one> a<one>b <one>",
]
# What follows one another in a megabyte.
MEGABYTE = 1_000_000


def cases(made, unknown=None):
    """What a tokenizer makes of texts, and of ids that no text has. `lost`: a character became the unknown token."""
    made.no_padding()
    made.no_truncation()
    unknown_id = made.token_to_id(unknown) if unknown else None

    def read(ids):
        return {
            "ids": ids,
            "decoded": made.decode(ids, skip_special_tokens=False),
            "decoded_plain": made.decode(ids, skip_special_tokens=True),
        }

    texts = []
    for text in TEXTS:
        ids = made.encode(text, add_special_tokens=False).ids
        texts.append({"text": text, **read(ids)})
        if unknown and ids.count(unknown_id) > text.count(unknown):
            texts[-1]["lost"] = True
    chance = random.Random(7)
    known = sorted(made.get_vocab(with_added_tokens=True).values())
    drawn = [read(chance.choices(known, k=12)) for _ in range(20)]
    found = {"texts": texts, "drawn": drawn}
    if not any("lost" in case for case in texts):
        whole = "".join(TEXTS)
        whole *= MEGABYTE // len(whole.encode())
        ids = made.encode(whole, add_special_tokens=False).ids
        found["megabyte"] = {"tokens": len(ids), "ids": digest(ids), "decoded": blake3(made.decode(ids, skip_special_tokens=False).encode()).hexdigest()}
    return found


def real(path):
    data = path.read_bytes()
    return Tokenizer.from_str((gzip.decompress(data) if path.suffix == ".gz" else data).decode())


def real_tokenizers(folder):
    """Those too large to commit, by their place."""
    for name, path in {
        "gpt2": "tokenizers/gpt2/tokenizer.json.gz",
        "qwen2.5": "tokenizers/qwen2.5/tokenizer.json.gz",
        "qwen2-mini": "tokenizers/qwen2-mini.tokenizer.json",
        "stories260K": "models/stories260K/hf/tokenizer.json",
        "verl-digit-llama": "models/verl-digit-llama/tokenizer.json",
    }.items():
        made = real(folder / path)
        unknown = {"stories260K": None, "verl-digit-llama": "U"}.get(name)
        write(FIXTURES / "tokenizers" / f"{name}.json.gz", {"tokenizer": path, **cases(made, unknown)})


CORPUS = [
    "The quick brown fox jumps over the lazy dog, and the dog does not mind; it sleeps. " * 3,
    "Numbers such as 1, 12, 123, 1234 and 3.14159 are written in digits; 2 + 2 = 4, and 40 + 2 = 42. " * 3,
    "don't won't it's we've naïve café “quotes” user\nassistant\nHello world, leading and trailing text " * 3,
    "日本語 日本語のテキスト 한국어 हिन्दी हिन्दी क्षत्रिय 🙂🙂 " * 3,
    "CamelCase snake_case x=1 // comment #include <a> a.b,c;d:e?f!g(h)[i]{j} " * 2,
]
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


# How Llama-3 cuts text.
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def cut_by(*patterns):
    """Text cut by one pattern after the other, then written byte by byte."""
    return pre_tokenizers.Sequence(
        [
            *(pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in patterns),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def learned(model, trainer, **parts):
    """A tokenizer trained on the corpus, with its parts put on before."""
    made = Tokenizer(model)
    for name, part in parts.items():
        setattr(made, name, part)
    made.train_from_iterator(CORPUS, trainer)
    return made


def with_bytes(made, model_type, **options):
    """The same tokenizer, its vocabulary extended by a token for each byte, as SentencePiece's byte fallback."""
    value = json.loads(made.to_str())
    model = value["model"]
    model.update(options)
    model["byte_fallback"] = True
    if model_type == "Unigram":
        model["vocab"][1:1] = [[token, -20.0] for token in BYTES]
        model["unk_id"] = 0
    else:
        tokens = ["<unk>", *BYTES] + [t for t, _ in sorted(model["vocab"].items(), key=lambda e: e[1]) if t != "<unk>"]
        model["vocab"] = {token: number for number, token in enumerate(tokens)}
    value["added_tokens"] = [
        {**token, "id": 0} for token in value["added_tokens"] if token["content"] == "<unk>"
    ]
    return Tokenizer.from_str(json.dumps(value))


def kinds():
    """Small tokenizers of every kind that is published, made here."""
    quiet = dict(show_progress=False)
    byte_level = dict(
        pre_tokenizer=pre_tokenizers.ByteLevel(add_prefix_space=False),
        decoder=decoders.ByteLevel(),
    )
    alphabet = pre_tokenizers.ByteLevel.alphabet()

    def bytes_of(size=340, **more):
        return trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, **quiet, **more)

    llama_decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    made = {}
    # Llama-2, Mistral: SentencePiece's BPE by normalizers.
    llama = learned(
        models.BPE(unk_token="<unk>", fuse_unk=True),
        trainers.BpeTrainer(vocab_size=200, special_tokens=["<unk>"], limit_alphabet=60, **quiet),
        normalizer=normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]),
    )
    llama = with_bytes(llama, "BPE")
    llama.decoder = llama_decoder
    llama.add_special_tokens(["<s>", "</s>"])
    llama.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", llama.token_to_id("<s>"))]
    )
    made["byte fallback"] = llama, None
    for scheme in ("first", "always", "never"):
        metaspace = learned(
            models.BPE(unk_token="<unk>"),
            trainers.BpeTrainer(vocab_size=200, special_tokens=["<unk>"], limit_alphabet=60, **quiet),
            pre_tokenizer=pre_tokenizers.Metaspace(prepend_scheme=scheme, split=scheme != "first"),
        )
        metaspace = with_bytes(metaspace, "BPE")
        metaspace.decoder = decoders.Sequence(
            [decoders.ByteFallback(), decoders.Metaspace(prepend_scheme=scheme), decoders.Fuse()]
        )
        metaspace.add_special_tokens(["<s>", "</s>"])
        made[f"metaspace {scheme}"] = metaspace, None
    unigram_parts = dict(
        normalizer=normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")]),
        pre_tokenizer=pre_tokenizers.Metaspace(),
        decoder=decoders.Metaspace(),
    )
    trainer = trainers.UnigramTrainer(vocab_size=160, unk_token="<unk>", special_tokens=["<unk>"], **quiet)
    # T5, XLM-RoBERTa.
    made["unigram"] = learned(models.Unigram(), trainer, **unigram_parts), "<unk>"
    # Gemma.
    gemma = learned(
        models.Unigram(),
        trainers.UnigramTrainer(vocab_size=160, unk_token="<unk>", special_tokens=["<unk>"], **quiet),
        normalizer=normalizers.Replace(" ", "▁"),
    )
    gemma = with_bytes(gemma, "Unigram")
    gemma.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    made["unigram with bytes"] = gemma, None
    # BERT.
    special = ["[UNK]", "[CLS]", "[SEP]", "[MASK]", "[PAD]"]
    bert = learned(
        models.WordPiece(unk_token="[UNK]"),
        trainers.WordPieceTrainer(vocab_size=220, special_tokens=special, **quiet),
        normalizer=normalizers.BertNormalizer(lowercase=True),
        pre_tokenizer=pre_tokenizers.BertPreTokenizer(),
        decoder=decoders.WordPiece(),
    )
    bert.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", bert.token_to_id("[CLS]")), ("[SEP]", bert.token_to_id("[SEP]"))],
    )
    made["wordpiece"] = bert, "[UNK]"
    # Tokens that take the blanks beside them, or stand only between words.
    added = learned(models.BPE(), bytes_of(), **byte_level)
    added.add_special_tokens(["<|im_start|>", "<|im_end|>", "<|endoftext|>"])
    added.add_tokens(
        [
            AddedToken("<mask>", lstrip=True, rstrip=True, normalized=False),
            AddedToken("<one>", single_word=True, normalized=False),
            AddedToken("<think>", lstrip=True, normalized=False),
            AddedToken("</think>", rstrip=True, normalized=False),
            AddedToken("trailing", normalized=True),
            AddedToken("   ", normalized=False),
        ]
    )
    made["added tokens"] = added, None
    lowered = learned(models.BPE(), bytes_of(), normalizer=normalizers.Lowercase(), **byte_level)
    lowered.add_tokens([AddedToken("Hello", normalized=True), AddedToken("World", normalized=False)])
    made["normalized added tokens"] = lowered, None
    # GPT-2's old ways: a blank before every text.
    made["prefix space"] = (
        learned(
            models.BPE(),
            bytes_of(),
            pre_tokenizer=pre_tokenizers.ByteLevel(add_prefix_space=True),
            decoder=decoders.ByteLevel(),
        ),
        None,
    )
    made["llama 3"] = (
        learned(
            models.BPE(ignore_merges=True),
            bytes_of(400),
            pre_tokenizer=cut_by(LLAMA3),
            decoder=decoders.ByteLevel(),
        ),
        None,
    )
    # DeepSeek-V3: digits, CJK and the rest cut one after another.
    made["deepseek"] = (
        learned(
            models.BPE(),
            bytes_of(400),
            pre_tokenizer=cut_by(
                r"\p{N}{1,3}",
                "[一-龥぀-ゟ゠-ヿ]+",
                r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
                r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
            ),
            decoder=decoders.ByteLevel(),
        ),
        None,
    )
    made["digits and NFD"] = (
        learned(
            models.BPE(),
            bytes_of(),
            normalizer=normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents(), normalizers.Strip()]),
            pre_tokenizer=pre_tokenizers.Sequence(
                [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
            ),
            decoder=decoders.ByteLevel(),
        ),
        None,
    )
    # OpenAI's first GPT: the end of a word is part of its tokens.
    suffix = learned(
        models.BPE(unk_token="<unk>", end_of_word_suffix="</w>"),
        trainers.BpeTrainer(vocab_size=260, special_tokens=["<unk>"], end_of_word_suffix="</w>", **quiet),
        pre_tokenizer=pre_tokenizers.BertPreTokenizer(),
        decoder=decoders.BPEDecoder(suffix="</w>"),
    )
    made["word ends"] = suffix, "<unk>"
    made["words"] = (
        learned(
            models.WordLevel(unk_token="<unk>"),
            trainers.WordLevelTrainer(vocab_size=100, special_tokens=["<unk>"], **quiet),
            pre_tokenizer=pre_tokenizers.Whitespace(),
        ),
        "<unk>",
    )
    found = {name: {"json": one.to_str(), **cases(one, unknown)} for name, (one, unknown) in made.items()}
    write(FIXTURES / "tokenizers" / "kinds.json.gz", found)
    for name, one in found.items():
        print(f"{name}: {sum('lost' in case for case in one['texts'])} of {len(TEXTS)} texts lose a character")


def main():
    folder = Path(sys.argv[1])
    templates(folder)
    dates()
    kinds()
    real_tokenizers(folder)
    masks(folder)


if __name__ == "__main__":
    main()
