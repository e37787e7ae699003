"""What tasks are made of: a long text and lists of words. Every source is named, because scores over different texts do not compare."""
import gzip
import os
import pathlib
import random
import re
import shutil
import subprocess

# Used where the wonderwords package is not there; enough for 6,000 keys.
ADJECTIVES = """amber ancient autumn awake bitter blue bold brave bright brisk broken calm careful cheerful clean clear clever cold copper crisp curious
daring dark deep delicate distant dry eager early easy empty faint fair faithful famous fancy fast fearless fierce final fine firm flat foggy fresh friendly frozen
gentle giant glad golden grand grateful gray green handy happy heavy hidden high hollow honest humble icy idle kind large late lean light little lively lonely long
loud loyal lucky mellow mighty mild modern narrow neat noble odd old open pale patient plain polite proud pure quick quiet rapid rare red rich ripe rough round royal
rustic sacred sandy sharp shiny short shy silent silver simple sleepy slow small smart smooth soft solid steady steep stern still stormy strange strong sturdy sudden
sunny sweet swift tall tame tender thick thin tidy tiny true vast velvet vivid warm weary wild wise wooden young""".split()
NOUNS = """anchor apple arrow badge barrel basket beacon bell bench bottle bridge bucket button candle canyon carpet castle cellar chain chapel cherry
chimney circle cliff cloak clock cloud coast comet compass copper corner cottage cradle crown curtain desert diamond donkey dragon drawer engine falcon feather fence
fiddle field flag flame flute forest fossil fountain garden garlic gate glacier glove grape gravel guitar hammer harbour harvest helmet hill honey hotel island ivory
jacket jewel kettle kitchen ladder lagoon lamp lantern leaf lemon letter library lion lizard locket magnet mantle maple marble market meadow mirror monkey moon
mountain museum napkin needle novel oasis ocean olive orchard otter paddle palace parrot pebble pencil pepper piano pillow planet pocket pond puzzle pyramid quarry
quilt rabbit raven ribbon river rocket saddle sailor salmon scarf school shadow shell shield silver sparrow spoon spring stable statue summit sunset table temple
thunder ticket tiger timber tower trumpet tunnel turtle valley vessel village violin wagon walnut whale wheel willow window winter wizard""".split()
VERBS = """accept admire advise allow answer arrange arrive attend balance become begin behave believe belong borrow bounce breathe bring build carry catch
change choose climb collect compare complain consider continue convince copy count cover create damage dance decide deliver depend describe destroy discover
divide dream drift earn embrace enter escape explain explore fetch finish follow forget forgive gather govern guess guide happen hesitate hurry imagine improve
include invent invite judge knock laugh launch listen manage measure mention move notice observe obtain offer order paint pardon perform permit pour praise prepare
present prevent promise protect punish receive reduce refuse release rely remain remember repair repeat rescue return reveal scatter search separate settle
sketch speak stretch succeed suffer suggest supply support surprise teach travel trust understand vanish visit wander welcome whisper wonder write""".split()

_SUBJECTS = "The pilot|The cook|A young surgeon|The harbour master|An old carpenter|The postman|Her brother|The teacher|A stranger|The miller".split("|")
_PREDICATES = """walked slowly to|wrote a long letter about|repaired the roof of|remembered an old story of|made a careful drawing of|asked many questions about|
told the children about|could see the lights of|had never heard of|paid a small sum for""".replace("\n", "").split("|")
_OBJECTS = """the mill by the river|the northern lighthouse|the market square|the ruined chapel|the long stone bridge|the orchard behind the school|
the ferry to the islands|the garden of the abbey|the road over the pass|the house with green shutters""".replace("\n", "").split("|")
_ENDS = """before the rain began|while the bells were ringing|although nobody had asked|and nothing more was said of it|because the road was closed|
as the boats came home|in the first week of spring|when the harvest was over|and then went to sleep|without a word of thanks""".replace("\n", "").split("|")


def _bible() -> str | None:
    """The King James Bible of Debian's bible-kjv-text, through the program of bible-kjv, without the labels of its verses."""
    program = shutil.which("bible") or ("/usr/bin/bible" if os.path.exists("/usr/bin/bible") else None)
    if not program:
        return None
    listed = subprocess.run([program, "-f", "gen1:1-rev22:21"], capture_output=True, text=True, check=False).stdout
    text = re.sub(r"^\S+ ", "", listed, flags=re.MULTILINE)
    return text if len(text) > 4_000_000 else None


def generated_text(words: int) -> str:
    """Plain prose from a fixed seed, for machines without a book; less varied than one."""
    draw, written, count = random.Random(20), [], 0
    while count < words:
        sentence = " ".join(draw.choice(part) for part in (_SUBJECTS, _PREDICATES, _OBJECTS, _ENDS)) + "."
        written.append(f"In the year {draw.randrange(1500, 1950)} {sentence[0].lower()}{sentence[1:]}" if draw.random() < 0.3 else sentence)
        count += len(written[-1].split())
    return " ".join(written)


def _wonderwords(folder: str | None):
    """Adjectives, nouns and verbs of the wonderwords package: of `folder`, or as it is installed."""
    if folder is None:
        try:
            import importlib.util

            spec = importlib.util.find_spec("wonderwords")
        except (ImportError, ValueError):
            spec = None
        if spec is None or not spec.origin:
            return None
        folder = str(pathlib.Path(spec.origin).parent / "assets")
    lists = [pathlib.Path(folder) / f"{kind}list.txt" for kind in ("adjective", "noun", "verb")]
    if not all(path.is_file() for path in lists):
        raise FileNotFoundError(f"--words {folder}: needs adjectivelist.txt, nounlist.txt and verblist.txt, as in wonderwords' assets")
    return [sorted({word.strip() for word in path.read_text().splitlines() if word.strip()}) for path in lists]


class Material:
    """`text_file` (plain or .gz) and `words_folder` name other sources; LSERVE_EVAL_TEXT and LSERVE_EVAL_WORDS do too."""

    def __init__(self, text_file: str | None = None, words_folder: str | None = None):
        text_file = text_file or os.environ.get("LSERVE_EVAL_TEXT")
        words_folder = words_folder or os.environ.get("LSERVE_EVAL_WORDS")
        if text_file == "generated":
            text, self.text_source = generated_text(150_000), "generated prose, seed 20"
        elif text_file:
            data = pathlib.Path(text_file).read_bytes()
            text = (gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data).decode()
            self.text_source = pathlib.Path(text_file).name
        elif text := _bible():
            self.text_source = "King James Bible (Debian bible-kjv-text)"
        else:
            text, self.text_source = generated_text(150_000), "generated prose, seed 20"
        self.text = text
        self.words = text.split()
        if len(self.words) < 1000:
            raise ValueError(f"--text {text_file}: {len(self.words)} words, at least 1000 are needed")
        found = _wonderwords(words_folder)
        self.words_source = "wonderwords" if found else "built-in lists"
        self.adjectives, self.nouns, self.verbs = found or (sorted(set(ADJECTIVES)), sorted(set(NOUNS)), sorted(set(VERBS)))
        self.keys = sorted({f"{a}-{n}" for a in self.adjectives for n in self.nouns})
        # For word counting: many distinct words. The lists first, then those of the text.
        listed = sorted({w for w in self.adjectives + self.nouns + self.verbs if re.fullmatch("[a-z]+", w)})
        known = set(listed)
        self.vocabulary = listed
        self.more_words = sorted({w for w in re.findall(r"\b[a-z]{3,12}\b", text)} - known)

    def piece(self, words: int, begin: int = 0) -> list[str]:
        """`words` words from `begin` on, the text repeated where it ends."""
        total = len(self.words)
        return [self.words[(begin + i) % total] for i in range(words)]

    def describe(self) -> dict:
        return {"text": self.text_source, "text_words": len(self.words), "words": self.words_source}
