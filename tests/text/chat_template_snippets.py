"""Small templates that try one thing each; both sides must give the same text or both must fail."""

SNIPPETS = r"""
{{ 1 }} {{ -1 }} {{ +n }} {{ 1.0 }} {{ 1e3 }} {{ 1e16 }} {{ 1e-5 }} {{ 0.1 + 0.2 }} {{ 1_000 }} {{ 0x1f }} {{ 0b101 }} {{ 0o17 }}
{{ 1.5e300 * 1e10 }} {{ 123456789.123456789 }} {{ 1/3 }} {{ 100000000000000000000.0 }} {{ 1e22 }} {{ 5e-324 }} {{ -0.0 }}
{{ 7 // 2 }} {{ -7 // 2 }} {{ 7 % 3 }} {{ -7 % 3 }} {{ 7 % -3 }} {{ 7.5 % 2 }} {{ -7.5 // 2 }} {{ 2 ** 10 }} {{ 2 ** -1 }} {{ 2 ** 3 ** 2 }} {{ -2 ** 2 }}
{{ 1 / 2 }} {{ 4 / 2 }} {{ 1 + 2 * 3 - 4 }} {{ (1 + 2) * 3 }} {{ 1 ~ 2 }} {{ '1' ~ 2 * 3 }} {{ '1' + 2 ~ 3 }}
{{ 1 ~ 2 + 3 }}
{{ 1 / 0 }}
{{ 1 % 0 }}
{{ true + 1 }} {{ true }} {{ True == 1 }} {{ false == 0.0 }} {{ 1 == 1.0 }} {{ '1' == 1 }} {{ none == none }} {{ none == false }}
{{ none }} {{ None }} {{ [none, true, 1.0, 'a'] }} {{ {'a': none, 1: 'x', 1.5: ()} }} {{ () }} {{ (1,) }} {{ (1, 2) }} {{ 1, 2 }}
{{ [1, 2] + [3] }} {{ (1,) + (2,) }} {{ [1] * 3 }} {{ 'ab' * 2 }} {{ 2 * 'ab' }} {{ [0] * -1 }}
{{ [1] + (2,) }}
{{ 'a' + 1 }}
{{ 1 + 'a' }}
{{ 1 < 2 < 3 }} {{ 1 < 3 < 2 }} {{ 3 > 2 >= 2 != 1 }} {{ 'a' < 'b' }} {{ [1, 2] < [1, 3] }} {{ (1, 'a') <= (1, 'b') }} {{ 1 < 1.5 }}
{{ 'a' < 1 }}
{{ none < 1 }}
{{ 'ell' in s }} {{ 'x' not in s }} {{ 1 in [1, 2] }} {{ 'a' in d }} {{ 5 in (1, 2) }} {{ not 'a' in d }} {{ '' in '' }}
{{ 1 in 'abc' }}
{{ 1 in 5 }}
{{ true and 0 or 'x' }} {{ not 1 }} {{ not not '' }} {{ '' or [] or 0 }} {{ 1 and 2 and 3 }}
{{ 'a' if yes else 'b' }} {{ 'a' if false }} {{ ('a' if false) is defined }} {{ 1 if 0 else 2 if 0 else 3 }}
{{ missing }}|{{ missing is defined }}|{{ missing == none }}|{{ missing|default('d') }}|{{ missing ~ 'x' }}|{{ not missing }}|{{ missing|length }}
{{ missing.x }}
{{ missing['x'] }}
{{ missing() }}
{{ missing + 1 }}
{{ missing < 1 }}
{{ -missing }}
{{ 'x' in missing }} {{ missing|list }} {{ missing|upper }} {{ missing|join }} {{ [missing] }} {{ missing == other }} {{ {'a': missing} }}
{{ missing in 'abc' }}
{{ missing in [missing] }} {{ missing|string }}| {{ missing|first }}| {{ missing|trim }}|
{{ missing|tojson }}
{{ missing|int }}
{{ missing|float }}
{{ missing|last }}
{{ d.nope }}|{{ d.nope is undefined }}|{{ d['nope'] is defined }}|{{ s.nope }}|{{ numbers[99] }}|{{ numbers[-1] }}|{{ n.x }}|{{ none.x }}
{{ d.nope.deeper }}
{{ d.a }} {{ d['b'] }} {{ d.items is callable }} {{ d['items'] }} {{ d.C.0 }} {{ d.C[1].x }} {{ nested[1][1][0] }} {{ nested.1.0 }}
{{ s[0] }} {{ s[-1] }} {{ s[1:4] }} {{ s[::-1] }} {{ s[-6:] }} {{ s[:-1] }} {{ s[::2] }} {{ s[10:2] }} {{ s[5:1:-1] }} {{ s[99] }}| {{ s[1:100] }}
{{ emoji[1] }} {{ emoji[1:] }} {{ emoji|length }} {{ emoji[::-1] }} {{ emoji|list }} {{ emoji|upper }} {{ emoji }} {{ [emoji] }}
{{ numbers[1:] }} {{ numbers[:2] }} {{ numbers[::-1] }} {{ numbers[1:3] }} {{ numbers[-2:] }} {{ (1, 2, 3)[1:] }} {{ numbers[:-1] }} {{ numbers[3:0:-2] }}
{{ numbers[::0] }}
{{ numbers['a'] }}|{{ numbers[1.0] }}|{{ d[0] }}|{{ d[[1]] }}
{{ 'it\'s' }} {{ "it's" }} {{ ['it\'s', 'a"b', 'both \' and "'] }} {{ 'a' 'b' "c" }}
{{ '\n\t\\ \x41 \u00e9 \U0001F389 \101 \q' }} {{ ['\n\t\\ \x00 \x7f \xa0 é \u200b'] }}
{{ 'tab\there' | tojson }} {{ '"\\/<>&\u2028\x7f\x01é🎉' | tojson }} {{ 'é🎉\x7f"' | tojson(ensure_ascii=true) }}
{{ d | tojson }} {{ [1, 2.0, none, true, 'x', [], {}] | tojson }} {{ (1, 2) | tojson }} {{ {1: 2, none: 3, true: 4, 1.5: 5} | tojson }}
{{ d | tojson(indent=2) }} {{ [] | tojson(indent=2) }} {{ {'a': {}} | tojson(indent=4) }} {{ [1, [2]] | tojson(indent=0) }} {{ d | tojson(indent='--') }}
{{ d | tojson(separators=(',', ':')) }} {{ d | tojson(sort_keys=true, indent=2, separators=(' ,', ' : ')) }} {{ tools | tojson }}
{{ range(3) | tojson }}
{{ {(1, 2): 3} | tojson }}
{{ d.items() | list }} {{ d.keys() | list }} {{ d.values() | list }} {{ d | list }} {{ d | length }} {{ d.get('a') }} {{ d.get('z') }} {{ d.get('z', 9) }}
{{ d.items() }} {{ d.keys() }} {{ d.values() }}
{{ {'a': 1}.keys()[0] }}|
{% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %}
{% for k, v in d | items %}{{ k }}={{ v }};{% endfor %} {% for x in d %}{{ x }}{% endfor %} {% for k, v in d | dictsort %}{{ k }}{% endfor %}
{{ d | dictsort(true) }} {{ {'a': 2, 'b': 1} | dictsort(by='value') }} {{ {'a': 2, 'b': 1} | dictsort(reverse=true) }}
{{ 5 | items | list }}
{% for i in range(5) %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }} {% endfor %}
{% for i in numbers %}{{ loop.previtem }}<{{ i }}>{{ loop.nextitem }} {{ loop.cycle('a', 'b') }} {{ loop.changed(i) }};{% endfor %}
{% for i in [] %}x{% else %}empty{% endfor %} {% for i in [1] %}x{% else %}empty{% endfor %} {% for i in missing %}x{% else %}none{% endfor %}
{% for i in numbers if i > 1 %}{{ loop.index }}/{{ loop.length }}:{{ i }} {% if loop.last %}end{% endif %}{% else %}nothing{% endfor %}
{% for i in numbers if i > 9 %}x{% else %}nothing{% endfor %} {% for i in numbers if loop is defined %}x{% endfor %}
{% for i in range(10) %}{% if i == 2 %}{% continue %}{% endif %}{% if i == 5 %}{% break %}{% endif %}{{ i }}{% endfor %}
{% for i in range(3) %}{% for j in range(3) %}{% if j == 1 %}{% break %}{% endif %}{{ i }}{{ j }} {{ loop.index }};{% endfor %}{{ loop.index }}{% endfor %}
{% for a, b in [(1, 2), [3, 4], 'xy'] %}{{ a }}{{ b }} {% endfor %} {% for (a, b), c in [((1, 2), 3)] %}{{ a }}{{ b }}{{ c }}{% endfor %}
{% for a, b in [(1, 2, 3)] %}{{ a }}{% endfor %}
{% for i in 5 %}{% endfor %}
{% for i in none %}{% endfor %}
{% for c in 'aé🎉' %}[{{ c }}]{% endfor %} {% for i in range(0) %}{% else %}e{% endfor %}
{% for i in [1, 2] %}{% set x = i %}{% endfor %}{{ x }}| {% set y = 1 %}{% for i in [1, 2] %}{{ y }}{% set y = y + 1 %}{{ y }}{% endfor %}{{ y }}
{% set ns = namespace(x=0, y='a') %}{% for i in numbers %}{% set ns.x = ns.x + i %}{% endfor %}{{ ns.x }}{{ ns.y }} {{ ns.z is defined }} {{ ns['x'] }}
{% set ns = namespace({'q': 1}) %}{{ ns.q }} {% set ns.q = [ns.q] %}{{ ns.q }} {{ ns }}
{% set d.a = 5 %}
{% set missing.a = 5 %}
{% if true %}{% set z = 1 %}{% endif %}{{ z }} {% if missing %}a{% elif n == 7 %}b{% else %}c{% endif %} {% if 0 %}{% elif 0 %}{% else %}last{% endif %}
{% set a, b = 1, 2 %}{{ a }}{{ b }} {% set a = 1, 2 %}{{ a }} {% set x %}block {{ n }}{% endset %}[{{ x }}] {% set x | upper | trim %} up {% endset %}[{{ x }}]
{% set x %}{% set inner = 3 %}{% endset %}{{ inner is defined }} {% with a = 5, b = n %}{{ a }}{{ b }}{% endwith %}{{ a is defined }}
{% macro m(a, b=2, c='x') %}[{{ a }}{{ b }}{{ c }}]{% endmacro %}{{ m(1) }}{{ m(1, 3) }}{{ m(1, c='y') }}{{ m(b=5, a=4) }}{{ m() }}{{ m.name }}{{ m.arguments }}
{% macro m(a) %}{{ a }}{% endmacro %}{{ m(1, 2) }}
{% macro m(a) %}{{ a }}{% endmacro %}{{ m(b=2) }}
{% macro m(a) %}{{ a }}{{ varargs }}{{ kwargs }}{% endmacro %}{{ m(1, 2, 3, k=4) }}{{ m() }}
{% macro m(a, b=a) %}{{ a }}{{ b }}{% endmacro %}{{ m(1) }}|{{ m(1, 2) }}
{% macro fact(n) %}{% if n <= 1 %}1{% else %}{{ n * (fact(n - 1) | int) }}{% endif %}{% endmacro %}{{ fact(10) }}
{% macro m() %}<{{ caller() }}>{% endmacro %}{% call m() %}in{{ n }}{% endcall %} {% macro k() %}{{ caller(1, 2) }}{% endmacro %}{% call(a, b) k() %}{{ a }}{{ b }}{% endcall %}
{% macro m() %}{{ caller is defined }}{% endmacro %}{{ m() }}
{% macro m() %}{{ x }}{% endmacro %}{% set x = 2 %}{{ m() }} {% set x = 3 %}{{ m() }}
{% macro m() %}a{% set q = 1 %}{{ q }}{% endmacro %}{{ m() ~ m() }}{{ q is defined }} {{ m() | upper }} {{ m() is string }}
{% filter upper %}abc {{ s }}{% endfilter %} {% filter replace('a', 'b') | trim %} aaa {% endfilter %} {% generation %}gen {{ n }}{% set g = 1 %}{% endgeneration %}{{ g is defined }}
{% raw %}{{ x }} {% if %}{% endraw %} {# comment {{ x }} #} {%- raw -%}  {{ y }}  {%- endraw -%}  z
a  {%- if true -%}  b  {%- endif -%}  c {{- ' d ' -}} e {#- c -#} f
{{ [3, 1, 2] | sort }} {{ words | sort }} {{ words | sort(case_sensitive=true) }} {{ numbers | sort(reverse=true) }} {{ users | sort(attribute='name') | map(attribute='name') | join(',') }}
{{ [1, 'a'] | sort }}
{{ users | sort(attribute='age') }}
{{ users[:2] | sort(attribute='age,name') | map(attribute='age') | list }} {{ words | unique | list }} {{ numbers | unique | list }} {{ words | unique(true) | list }}
{{ numbers | min }} {{ numbers | max }} {{ words | min }} {{ words | max }} {{ [] | max }}| {{ numbers | sum }} {{ users[:2] | sum(attribute='age') }} {{ [] | sum }} {{ [[1], [2]] | sum(start=[]) }}
{{ ['a'] | sum }}
{{ numbers | first }} {{ numbers | last }} {{ [] | first }}| {{ [] | last }}| {{ s | first }} {{ s | last }} {{ d | first }} {{ range(4) | last }} {{ d | last }}
{{ numbers | reverse | list }} {{ s | reverse }} {{ numbers | length }} {{ numbers | count }} {{ s | length }} {{ range(7) | length }} {{ d.items() | length }}
{{ 5 | length }}
{{ none | length }}
{{ users | map(attribute='age') | list }} {{ users | map(attribute='age', default=0) | list }} {{ words | map('upper') | list }} {{ ['1', '2'] | map('int') | sum }} {{ words | map('replace', 'p', 'q') | join(' ') }}
{{ words | map('nofilter') | list }}
{{ users | selectattr('age') | map(attribute='name') | list }} {{ users | selectattr('age', 'gt', 26) | list }}
{{ users | selectattr('age', 'defined') | list | length }} {{ users | rejectattr('age', 'defined') | list }} {{ messages | selectattr('role', 'equalto', 'user') | list }} {{ messages | rejectattr('role', '==', 'system') | list | length }}
{{ numbers | select('odd') | list }} {{ numbers | reject('odd') | list }} {{ [0, 1, ''] | select | list }} {{ numbers | select('in', [1, 2]) | list }} {{ numbers | select('divisibleby', 3) | list }}
{{ numbers | select('odd') | length }}
{% set g = numbers | select('odd') %}{{ g | list }}{{ g | list }} {% set r = numbers | reverse %}{{ r | join }}{{ r | join }}
{{ numbers | join(', ') }} {{ numbers | join }} {{ users | join(',', attribute='name') }} {{ [none, 1.5] | join('-') }} {{ s | join('.') }} {{ 'x'.join(['a', 'b']) }}
{{ 'x'.join([1]) }}
{{ numbers | batch(2) | list }} {{ numbers | batch(3, 'x') | list }} {{ numbers | slice(3) | list }} {{ numbers | slice(3, 0) | list }} {{ words | groupby('0') }}
{% for key, group in users[:2] | groupby('age') %}{{ key }}:{{ group | map(attribute='name') | join }} {% endfor %} {{ users | groupby('age', default=0) | length }}
{{ s | upper }} {{ s | lower }} {{ 'hello wORLD-foo (bar) it\'s' | title }} {{ 'hello wORLD-foo it\'s'.title() }} {{ 'hELLO' | capitalize }} {{ 'hELLO'.capitalize() }} {{ 'aBc'.swapcase() }}
{{ 'straße ﬁ ΑΣ σ' | upper }} {{ 'ΑΣ ΑΣΑ İ' | lower }} {{ 1 | upper }} {{ none | lower }} {{ true | title }}
{{ text | trim }}| {{ 'xxaxx' | trim('x') }} {{ text.strip() }}| {{ text.lstrip() }}| {{ text.rstrip() }}| {{ 'abcba'.strip('ab') }} {{ '\u3000a\u00a0'.strip() }}| {{ 'xyx'.lstrip('x') }} {{ '  a'.strip(none) }}
{{ 'a,b,,c'.split(',') }} {{ ' a  b '.split() }} {{ 'a,b,c'.split(',', 1) }} {{ 'a b c'.split(none, 1) }} {{ 'a,b,c'.rsplit(',', 1) }} {{ ' a  b  c '.rsplit(none, 1) }} {{ ''.split() }} {{ ''.split(',') }} {{ 'abc'.split('b')[-1] }} {{ ' a b '.split(maxsplit=1) }}
{{ 'a'.split('') }}
{{ s.startswith('He') }} {{ s.endswith('!') }} {{ s.startswith(('x', 'H')) }} {{ s.startswith('l', 2) }} {{ s.find('l') }} {{ s.rfind('l') }} {{ s.find('zz') }} {{ s.find('!') }} {{ s.count('l') }} {{ s.index('W') }}
{{ s.index('zz') }}
{{ s.replace('l', 'L') }} {{ s.replace('l', 'L', 1) }} {{ 'abc'.replace('', '-') }} {{ s | replace('o', '0') }} {{ 'aaa' | replace('a', 'b', 2) }} {{ 5 | replace(5, 6) }}
{{ 'a-b-c'.partition('-') }} {{ 'a-b-c'.rpartition('-') }} {{ 'abc'.partition('x') }} {{ 'prefix-a'.removeprefix('prefix-') }} {{ 'a.txt'.removesuffix('.txt') }} {{ lines.splitlines() }} {{ 'a\nb'.splitlines(true) }}
{{ 'ab'.center(7) }}| {{ 'ab'.center(6, '*') }} {{ 'a'.ljust(3) }}| {{ 'a'.rjust(3, '.') }} {{ '7'.zfill(3) }} {{ '-7'.zfill(4) }} {{ 'ab' | center(5) }}| {{ 'a\tb'.expandtabs(4) }}
{{ 'abc'.isalpha() }} {{ '12'.isdigit() }} {{ 'a1'.isalnum() }} {{ ' '.isspace() }} {{ 'AB'.isupper() }} {{ 'ab'.islower() }} {{ ''.isdigit() }} {{ '²'.isdigit() }} {{ '²'.isdecimal() }} {{ '½'.isnumeric() }} {{ 'é'.isascii() }}
{{ s.nomethod() }}
{{ numbers.append(4) }}
{{ d.update({}) }}
{{ numbers.append }}|{{ numbers.append is defined }}|{{ s.__class__ }}|{{ numbers.index(2) }}|{{ numbers.count(3) }}|{{ (1, 2).index(2) }}
{{ s.__class__.__mro__ }}
{{ '%s is %d and %5.2f|%-5s|%05d|%x|%r|%%' % ('a', 3, 2.456, 'b', 42, 255, 'q') }} {{ '%s' % 'x' }} {{ '%s' % [1] }} {{ '%(a)s-%(b)d' % {'a': 1, 'b': 2} }} {{ '%s %s' | format('a', 1) }} {{ '%(x)s' | format(x=5) }} {{ '%+d % d %e %g %c' % (1, 2, 12345.678, 0.0001, 'z') }}
{{ '%s %s' % 'a' }}
{{ '%d' % 'a' }}
{{ '%s' % ('a', 'b') }}
{{ '{} {1}'.format(1) }}
{{ '{} {}'.format('a', 1) }} {{ '{0}{1}{0}'.format(1, 2) }} {{ '{name!r:>6}|{x:.2f}|{y:05d}|{z:,}'.format(name='a', x=1.005, y=42, z=1234567) }} {{ '{a[b]} {{}}'.format(a=d) }} {{ '{:<5}|{:^5}|{:>5}|{:*^7}'.format('a', 'b', 1, 'c') }} {{ '{:x} {:b} {:%} {:e} {:+}'.format(255, 5, 0.5, 1.5, 3) }}
{{ '3' | int }} {{ '3.7' | int }} {{ 'x' | int }} {{ 'x' | int(5) }} {{ 3.9 | int }} {{ -3.9 | int }} {{ true | int }} {{ none | int }} {{ ' 12 ' | int }} {{ 'ff' | int(base=16) }} {{ '0x1f' | int(0, 16) }} {{ [] | int(9) }} {{ '1_0' | int }}
{{ '3.5' | float }} {{ 'x' | float }} {{ 3 | float }} {{ none | float(1.5) }} {{ 'inf' | float }} {{ '1e3' | float }} {{ 'nan' | float }}
{{ 2.5 | round }} {{ 3.5 | round }} {{ 2.567 | round(2) }} {{ 2.1 | round(method='ceil') }} {{ 2.9 | round(0, 'floor') }} {{ 2.675 | round(2) }} {{ 5 | round }} {{ 15 | round(-1) }} {{ 1234.5 | round(-2) }} {{ 2.5 | round | int }} {{ -3 | abs }} {{ -2.5 | abs }}
{{ 'abc' | indent }} {{ lines | indent(2) }} {{ lines | indent(2, true) }} {{ lines | indent(2, first=true, blank=true) }} {{ 'a\nb' | indent('--') }} {{ 'a\n' | indent(2) }}|
{{ '<a href="x">&\'</a>' | e }} {{ '<b>' | safe }} {{ '<b>' | escape }} {{ 'foo bar baz qux' | truncate(9) }} {{ 'foo bar baz qux' | truncate(9, true) }} {{ 'a b  c_d' | wordcount }} {{ 'a b&c/é' | urlencode }} {{ {'a b': 1} | urlencode }} {{ 1000000 | filesizeformat }} {{ 2048 | filesizeformat(true) }}
{{ missing | default }}| {{ '' | default('x') }}| {{ '' | default('x', true) }} {{ none | default('x') }} {{ false | d('x', boolean=true) }} {{ 0 | d(1, true) }}
{{ n is number }} {{ f is float }} {{ n is integer }} {{ yes is integer }} {{ yes is number }} {{ yes is boolean }} {{ n is odd }} {{ n is even }} {{ n is divisibleby 7 }} {{ n is divisibleby(2) }} {{ nothing is none }} {{ n is not none }} {{ s is string }}
{{ d is mapping }} {{ d is sequence }} {{ s is sequence }} {{ numbers is sequence }} {{ numbers is iterable }} {{ n is iterable }} {{ s is iterable }} {{ d is iterable }} {{ missing is iterable }} {{ missing is sequence }} {{ (numbers | map('abs')) is iterable }} {{ (numbers | map('abs')) is sequence }} {{ range(3) is sequence }}
{{ n is eq 7 }} {{ n is equalto(7) }} {{ n is ne 8 }} {{ n is gt 6 }} {{ n is lt(8) }} {{ n is ge 7 }} {{ n is le 6 }} {{ n is in [7] }} {{ n is sameas n }} {{ yes is true }} {{ yes is false }} {{ 1 is true }} {{ 'upper' is filter }} {{ 'odd' is test }} {{ 'AB' is upper }} {{ 'ab' is lower }} {{ range is callable }} {{ n is callable }}
{{ n is nosuchtest }}
{{ n | nosuchfilter }}
{{ 'a' is odd }}
{{ not n is odd }} {{ n is odd and f is float }} {{ n is not odd or true }} {{ 1 if n is odd else 2 }} {{ [n is odd, 1] }}
{{ range(3) }} {{ range(1, 4) | list }} {{ range(10, 0, -3) | list }} {{ range(5)[1:3] }} {{ range(5)[-1] }} {{ range(0, 10, 2)[::2] | list }} {{ 3 in range(5) }} {{ range(3) == range(0, 3) }}
{{ range(3, 1, 0) }}
{{ range(1000000) }}
{{ range('a') }}
{{ dict(a=1, b=2) }} {{ dict([('x', 1)]) }} {{ dict({'a': 1}, b=2) }} {{ dict() }} {{ {'a': 1, 'a': 2} }} {{ {'a': 1} == {'a': 1.0} }}
{% set c = cycler('a', 'b') %}{{ c.next() }}{{ c.next() }}{{ c.next() }}{{ c.current }}{{ c.reset() }}{{ c.next() }} {% set j = joiner('|') %}{{ j() }}a{{ j() }}b{{ j() }}
{{ strftime_now('%Y-%m-%d %H:%M:%S %d %b %Y %B %A %j %%') }} {{ strftime_now('') }}|
{{ raise_exception('no: ' ~ n) }}
{{ raise_exception() }}
a{% if false %}{{ raise_exception('x') }}{% endif %}b
{{ f(1) }}
{{ n.foo() }}
{{ messages[-1].tool_calls[0].function.arguments | tojson }} {{ messages[0].content.split('\n')[0] }} {{ messages | map(attribute='role') | join(',') }} {{ messages[0]['role'] == 'system' }} {{ tools[0].function.parameters.properties.items() | list | length }} {{ tools[0].function.parameters.properties | map('upper') | list }}
{{ messages[1:] | length }} {{ (messages | selectattr('role', 'eq', 'tool') | list) == [] }} {{ messages[0] in messages }} {{ messages | last == messages[-1] }} {{ messages[::-1][0].role }}
{{ [1, 2, 3] | attr('count') is callable }} {{ s | attr('upper') is callable }} {{ d | attr('a') is defined }} {{ d | attr('a') }}
{{ print is defined }} {% print n, s %} {{ loop is defined }}
{{ *numbers }}
{{ dict(**{'a': 1}) }} {% macro m(a, b) %}{{ a }}{{ b }}{% endmacro %}{{ m(*[1, 2]) }}{{ m(**{'b': 2, 'a': 1}) }}{{ m(1, **{'b': 3}) }}
{% if %}{% endif %}
{% for %}{% endfor %}
{% if true %}
{% endif %}
{{ 
{{ 1 + }}
{{ (1 }}
{{ 'abc }}
{% unknown %}
{% set 5 = 1 %}
{% set a %}
{# never closed
{{ a b }}
{{ 1 | }}
{{ [1, 2, }}
{{ {1} }}
{% break %}
{% macro %}{% endmacro %}
{{ true = 1 }}
{{ ! 1 }}
{{ [1,] }} {{ (1, 2,) }} {{ {'a': 1,} }} {{ range(3,) | list }} {{ [ ] }} {{ { } }}
{{ {'a': {'b': {}}} }}}} {{ '}}' }} {{ "%}" }} {{ {'x':{'y':1}}['x']['y'] }}
""".strip("\n").split("\n")

# White space control needs several lines.
SNIPPETS += [
    "a\n  {% if true %}\n  b\n  {% endif %}\nc\n",
    "a\n  {%+ if true %}\n  b\n  {%+ endif +%}\nc\n",
    "a\n  {%- if true -%}\n  b\n  {%- endif -%}\nc\n\n",
    "  {{ n }}\n  {# c #}\n  x {# d #}\n{#- e -#}\n y\n",
    "\n\n{% set x = 1 %}\n\n{{ x }}\n\n",
    "{% for i in [1, 2] %}\n- {{ i }}\n{% endfor %}\n\nend",
    "{% for i in [1, 2] -%}\n  - {{ i }}\n{%- endfor %}\nend\r\n",
    "a\r\nb\rc\n{% if true %}\r\nd\r\n{% endif %}\re\r",
    "  {% if true %}  x  {% endif %}  \n",
    "x {% if true %}\n\n y{% endif %}\t\n",
    "\t{% raw %}\n  {{ a }}\n  {% endraw %}\n z",
    "{{ 'a' }}\n{{ 'b' }}\n\n",
    "{%- set x = [\n  1,\n  2\n] -%}\n{{ x }}\n",
    "{{- n -}}\n{{ n }}\n {{- n }} {{ n -}} \n\n x",
    "\u00a0 {% if true %}\u3000\n{%- endif %}\u2028x",
    "{% if true %}a{% endif +%}\nb{#+ c +#}\nd",
    "{% set x -%}  a  {%- endset %}[{{ x }}]\n{% macro m() -%}\n  body\n{%- endmacro %}\n[{{ m() }}]",
    "{# a #}\n{# b #}\n\n{% if n %}\n{% endif %}\nx",
    "",
    "\n",
    "{% generation %}\n  a\n{% endgeneration %}\nb",
    "line {{ 'a\nb' }}\n{{ missing.x }}",
]
