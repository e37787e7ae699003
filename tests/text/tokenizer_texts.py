"""The texts on which tokenizers are compared: 2 MB of mixed text and 10,000 random strings, the same every time."""

import glob
import os
import random
import sysconfig
import unicodedata

import tokenizers

PARAGRAPHS = [
    "The quick brown fox doesn't jump; it's 3:45pm and they'll've gone. \"Why?\" — she'd asked, 1,234.56 times…",
    "Il était une fois, à l'orée d'un bois, une fée qui n'aimait guère les œufs brouillés. Où es-tu ?",
    "Größe, Straße, Übermut und Ärger: 12.345,67 €. Das ist doch nicht möglich!",
    "El niño comió piñas; ¿dónde está mi corazón? ¡Qué lástima!",
    "Съешь же ещё этих мягких французских булок, да выпей чаю. Ёлка 2024 года.",
    "ξεσκεπάζω τὴν ψυχοφθόρα βδελυγμία. Ὦ ἄνδρες Ἀθηναῖοι",
    "人人生而自由，在尊严和权利上一律平等。他们赋有理性和良心，并应以兄弟关系的精神相对待。价格是１２３元。",
    "すべての人間は、生まれながらにして自由であり、かつ、尊厳と権利とについて平等である。カタカナ、ﾊﾝｶｸ、ガギグゲゴ。",
    "모든 인간은 태어날 때부터 자유로우며 그 존엄과 권리에 있어 동등하다. 한글",
    "يولد جميع الناس أحرارًا متساوين في الكرامة والحقوق. ١٢٣٤٥٦٧٨٩٠",
    "כל בני האדם נולדו בני חורין ושווים בערכם ובזכויותיהם. שָׁלוֹם",
    "सभी मनुष्यों को गौरव और अधिकारों के मामले में जन्मजात स्वतन्त्रता और समानता प्राप्त है। १२३",
    "มนุษย์ทั้งหลายเกิดมามีอิสระและเสมอภาคกันในเกียรติศักดิ์และสิทธิ",
    "Tất cả mọi người sinh ra đều được tự do và bình đẳng về nhân phẩm và quyền lợi.",
    "👋🏽 Family: 👨‍👩‍👧‍👦 flags 🇩🇪🇯🇵🏴󠁧󠁢󠁳󠁣󠁴󠁿 hearts ❤️‍🔥 keycaps 1️⃣2️⃣ 🤷🏿‍♀️ 🦄🚀✨ e\u0301 a\u0308\u0323 q\u0307\u0323 Å Å ﬁ ½ ①",
    "for (int i = 0; i < n; ++i) { x[i] += y[i] * 0x1F; }  // done\n\tif (!ok) return -1;\r\n\r\n\n  \t \n",
    "https://example.org/a/b?c=d&e=%20f#g user.name+tag@mail.example ~/.config/x_y-z.toml $HOME ${VAR:-1}",
    "          \t\t\t   \n\n\n\n     x   \u00a0\u2003\u3000 y \u180e z \u0085 w \u200b\u200d\ufeff !!!???...,,,;;; ------ ======== ________ ####",
    "I'M YOU'LL he'S we'Re don'T \u017f'\u017f ıİ ǅ ʰ ª 𝐀𝐁 𝟘𝟙 ⅷ ² ² 12345678901234567890 3.14159 1e-10 0b1010",
]


def stdlib_files():
    """Python's own library: code, and pydoc's topics as prose."""
    root = sysconfig.get_paths()["stdlib"]
    return sorted(glob.glob(os.path.join(root, "*.py")) + glob.glob(os.path.join(root, "*", "*.py")))


def read_text(path):
    with open(path, encoding="utf-8", errors="replace", newline="") as file:
        return file.read()


def prose():
    root = sysconfig.get_paths()["stdlib"]
    text = read_text(os.path.join(root, "pydoc_data", "topics.py"))
    return text.encode().decode("unicode_escape", errors="replace") if "\\n" in text[:4000] else text


def mixed(generator, size):
    """Documents of 1 byte to 64 KB, about `size` bytes of UTF-8 together."""
    code = [path for path in stdlib_files() if "lib2to3" not in path]
    generator.shuffle(code)
    documents, total = list(PARAGRAPHS), 0
    topics = prose()
    han = [chr(c) for c in range(0x4E00, 0x9FA5)]
    kana = [chr(c) for c in range(0x3041, 0x30FA)]
    while total < size:
        kind = generator.randrange(5)
        if kind == 0 and code:
            text = read_text(code.pop())[:65536]
        elif kind == 1:
            start = generator.randrange(len(topics))
            text = topics[start : start + generator.randrange(1, 30000)]
        elif kind == 2:
            alphabet = han + generator.choices("，。、；「」 \n1a", k=4000) + kana * 20
            text = "".join(generator.choices(alphabet, k=generator.randrange(1, 6000)))
        elif kind == 3:
            lines = generator.choices(PARAGRAPHS, k=generator.randrange(1, 40))
            words = " ".join(lines).split(" ")
            generator.shuffle(words)
            text = generator.choice(["\n", " ", "", "  "]).join(words)
        else:
            text = generator.choice(["\n", "\n\n", " ", ""]).join(
                generator.choices(PARAGRAPHS, k=generator.randrange(1, 60))
            )
        documents.append(text)
        total += len(text.encode())
    return documents


def is_usable(code):
    """Assigned, and as old as the oldest Unicode among the libraries compared."""
    character = chr(code)
    return unicodedata.category(character) not in ("Cn", "Cs") and not is_newer_than_unicode_12(code)


# Blocks and characters that Unicode 13 to 15 added to planes and scripts in use (DerivedAge.txt).
NEWER = [
    (0x061D, 0x061D), (0x0870, 0x088E), (0x0890, 0x0891), (0x0898, 0x089F), (0x08B5, 0x08B5), (0x08BE, 0x08C9),
    (0x0B55, 0x0B55), (0x0C3C, 0x0C3C), (0x0C5D, 0x0C5D), (0x0CDD, 0x0CDD), (0x0CF3, 0x0CF3), (0x0D04, 0x0D04),
    (0x0D81, 0x0D81), (0x0ECE, 0x0ECE), (0x170D, 0x170D), (0x1715, 0x171F), (0x180F, 0x180F), (0x1ABF, 0x1ACE),
    (0x1B4C, 0x1B4C), (0x1B7D, 0x1B7E), (0x1DFA, 0x1DFA), (0x20C0, 0x20C0), (0x2B97, 0x2B97), (0x2C2F, 0x2C2F),
    (0x2C5F, 0x2C5F), (0x2E50, 0x2E5D), (0x31BB, 0x31BF), (0x4DB6, 0x4DBF), (0x9FF0, 0x9FFF), (0xA7C0, 0xA7C1),
    (0xA7C7, 0xA7F6), (0xA82C, 0xA82C), (0xAB68, 0xAB6B), (0xFBC2, 0xFBC2), (0xFD40, 0xFD4F), (0xFDCF, 0xFDCF),
    (0xFDFE, 0xFDFF),
]  # fmt: skip


def is_newer_than_unicode_12(code):
    # Above the Basic Multilingual Plane only blocks that are complete since Unicode 6 are drawn from.
    if code > 0xFFFF:
        return not (0x10300 <= code <= 0x1031E or 0x1D400 <= code <= 0x1D7CB or 0x1F300 <= code <= 0x1F5FA
                    or 0x20000 <= code <= 0x2A6D6 or 0x2F800 <= code <= 0x2FA1D)  # fmt: skip
    return any(first <= code <= last for first, last in NEWER)


def references_agree(code):
    """Whether `tokenizers`, whose tables of marks are those of Unicode 9, normalises it as Python does."""
    character = chr(code)
    if not unicodedata.combining(character) and not unicodedata.decomposition(character):
        return True
    return all(
        getattr(tokenizers.normalizers, form)().normalize_str(text) == unicodedata.normalize(form, text)
        for form in ("NFC", "NFD", "NFKC", "NFKD")
        for text in (character, f"a{character}\u0334", f"a\u0301{character}")
    )


def random_strings(generator, count):
    """Strings of 1 to 40 characters: of any script, of one block, or of marks and spaces."""
    codes = [c for c in range(0x110000) if not 0xE000 <= c < 0xF900 and is_usable(c) and references_agree(c)]
    marks = [code for code in codes if unicodedata.category(chr(code)).startswith("M")]
    spaces = [ord(c) for c in " \t\n\r\x0b\x0c\x85\xa0\u1680\u180e\u2002\u2028\u3000"]
    strings = []
    for _ in range(count):
        length = generator.randrange(1, 41)
        kind = generator.randrange(4)
        if kind == 0:
            drawn = generator.choices(codes, k=length)
        elif kind == 1:
            start = generator.randrange(len(codes))
            drawn = generator.choices(codes[start : start + 128] + spaces[:3], k=length)
        elif kind == 2:
            drawn = generator.choices(marks + [ord(c) for c in "aeiouAEIOU가ㄱ "] * 60, k=length)
        else:
            drawn = generator.choices(list(range(32, 127)) + spaces * 4, k=length)
        strings.append("".join(map(chr, drawn)))
    return strings


def invalid(generator, count):
    """Byte strings that are mostly not UTF-8."""
    out = [b"\xff", b"\xc0\x80", b"a\xe2\x82", b"\xed\xa0\x80", b"\xf0\x9f\x98", b"\xf4\x90\x80\x80", b"\xe2\x82\xe2\x82\xac", b"\xe2\x96"]
    for _ in range(count):
        raw = bytearray(" ".join(generator.choices(PARAGRAPHS, k=1)).encode())
        for _ in range(generator.randrange(1, 12)):
            raw[generator.randrange(len(raw))] = generator.randrange(256)
        out.append(bytes(raw[generator.randrange(8) :]))
    return out


def all_texts(size=2_000_000, strings=10_000):
    generator = random.Random(20240601)
    return mixed(generator, size) + random_strings(generator, strings), invalid(generator, 300)
