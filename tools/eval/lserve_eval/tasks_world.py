"""Questions about made-up people (synthqa, in place of SQuAD and HotpotQA), extraction of all records, and aggregates over many needles."""
import json
import random

from .material import Material
from .sample import Sample, Task
from .tasks_needle import into_text

GIVEN = """Ada Alma Anton Bela Berta Boris Carla Cyril Dora Edgar Elsa Emil Erna Felix Flora Greta Gustav Hanna Hugo Ida Igor Ilse Ivan Jana Jonas Karl Klara
Lena Leo Lotte Ludwig Mara Martin Mila Nora Oskar Otto Paula Pavel Petra Rosa Rudolf Sara Selma Simon Thea Theo Ursula Vera Viktor Wanda Xaver Yvonne
Zoltan""".split()
FAMILY_FIRST = "Ash Birk Brand Cold Dorn Eber Fal Grau Hart Holm Keller Lang Lind Mar Nor Oster Quell Ros Sand Stein Tann Uhl Vogel Wald Wester Zell".split()
FAMILY_LAST = "berg bach dorf feld hagen hof holt land mann mark meyer ner rich stedt stein wald".split()
TOWN_FIRST = "Alder Black Bright Clear Crow East Elm Fair Fox Glen Grey High King Lake Long Mill New North Oak Raven Red Rock Salt South Stone West".split()
TOWN_LAST = "bridge brook bury castle dale field ford gate ham haven hill hurst mere mouth port stead ton well wick wood".split()
TRADES = "shipping weaving printing brewing mining glass clock paper timber salt grain pottery".split()
ANIMALS = "goats sheep geese horses bees rabbits ducks pigs hens donkeys".split()
QA_TEMPLATE = ("Answer the question based on the given documents. Only give me the answer and do not output any other words.\n\n"
               "The following are given documents.\n\n{context}\n\n"
               "Answer the question based on the given documents. Only give me the answer and do not output any other words.\n\nQuestion: {query}")


def _people(draw: random.Random, count: int) -> list[str]:
    """Distinct names; given and family names repeat among them, so that part of a name says nothing."""
    names: dict[str, None] = {}
    while len(names) < count:
        names[f"{draw.choice(GIVEN)} {draw.choice(FAMILY_FIRST)}{draw.choice(FAMILY_LAST)}"] = None
    return list(names)


def _firms(draw: random.Random, count: int) -> list[str]:
    firms: dict[str, None] = {}
    while len(firms) < count:
        firms[f"{draw.choice(FAMILY_FIRST)}{draw.choice(FAMILY_LAST)} & {draw.choice(FAMILY_FIRST)}{draw.choice(FAMILY_LAST)}"] = None
    return list(firms)


def _town(draw: random.Random) -> str:
    return draw.choice(TOWN_FIRST) + draw.choice(TOWN_LAST)


def _person_document(draw: random.Random, name: str, firm: str) -> tuple[str, dict]:
    facts = {"born": _town(draw), "year": str(draw.randrange(1820, 1940)), "lives": _town(draw), "animal": draw.choice(ANIMALS), "number": str(draw.randrange(3, 90))}
    parts = [draw.choice([f"{name} was born in {facts['born']} in the year {facts['year']}.", f"Born in {facts['year']}, {name} came from the town of {facts['born']}."]),
             draw.choice([f"For many years {name} has been employed by {firm}.", f"The employer of {name} is {firm}, and has been for a long time."]),
             draw.choice([f"These days {name} lives in {facts['lives']}, in a house near the market.", f"{name} has a home in {facts['lives']} with a view of the hills."]),
             f"Behind the house there is room for {facts['number']} {facts['animal']}, which the neighbours look after on Sundays.",
             "Visitors remember the long evenings, the plain food and the stories that were told there."]
    return " ".join(parts), facts


def _firm_document(draw: random.Random, firm: str) -> tuple[str, dict]:
    facts = {"town": _town(draw), "year": str(draw.randrange(1700, 1820)), "trade": draw.choice(TRADES)}
    parts = [draw.choice([f"{firm} was founded in {facts['town']} in {facts['year']}.", f"In {facts['year']} the firm of {firm} was founded in the town of {facts['town']}."]),
             f"It made its name in the {facts['trade']} trade and survived two fires and a flood.",
             "The old ledgers are still kept in a room above the office, and the clerks speak of them with respect."]
    return " ".join(parts), facts


def make_qa(material: Material, draw: random.Random, units: int, limit: int, index: int, hops: int) -> Sample:
    """`units` documents, half about people and half about firms. Two hops: the answer lies in the document of the person's employer."""
    pairs = max(1, units // 2)
    people, firms, documents = _people(draw, pairs), _firms(draw, pairs), []
    for name, firm in zip(people, firms):
        text, person = _person_document(draw, name, firm)
        documents.append((text, name, person))
        text, facts = _firm_document(draw, firm)
        documents.append((text, firm, facts))
        if name == people[0]:
            asked, employer = person, facts
    if hops == 1:
        key, question = draw.choice([("born", "In which town was {} born?"), ("lives", "In which town does {} live?"), ("year", "In which year was {} born?")])
        answer = asked[key]
    else:
        key, question = draw.choice([("town", "In which town was the employer of {} founded?"), ("year", "In which year was the employer of {} founded?")])
        answer = employer[key]
    random.Random(42).shuffle(documents)
    context = "\n\n".join(f"Document {i + 1}:\n{text}" for i, (text, *_) in enumerate(documents))
    depths = [round(100 * i / len(documents)) for i, (_, name, _) in enumerate(documents) if name in (people[0], firms[0])]
    return Sample(f"synthqa_{hops}", limit, index, QA_TEMPLATE.format(context=context, query=question.format(people[0])), " Answer:", [answer],
                  "match_part", 32, extra={"depth": depths[0], "depths": depths})


def make_extract(material: Material, draw: random.Random, units: int, limit: int, index: int) -> Sample:
    """Records in prose; the town of every one is asked for. Nothing may be left unread."""
    people = _people(draw, units)
    towns = [_town(draw) for _ in people]
    lines = [f"{name} of {town} brought {draw.randrange(2, 60)} {draw.choice(ANIMALS)} to the fair and sold them for {draw.randrange(20, 900)} crowns."
             for name, town in zip(people, towns)]
    prompt = ("Below are notes of a fair, one person a line.\n\n" + "\n".join(lines) +
              "\n\nGive a JSON array with the home towns of all persons above, in order, one string a person, and nothing else.")
    return Sample("extract", limit, index, prompt, '["', towns, "json_f1", min(1024, max(64, 8 * units)))


def _tagged(material: Material, draw: random.Random, units: int, needles: int, tag: str) -> tuple[str, list[int]]:
    values = draw.sample(range(100, 1000), needles)
    percents = sorted(100 * draw.random() for _ in values)
    return into_text(" ".join(material.piece(units)), [f"Note of the {tag} office: the sum is {value}." for value in values], percents), values


def make_list(material: Material, draw: random.Random, units: int, limit: int, index: int) -> Sample:
    """All values of one tag, spread over the text: 8 needles at 4K, 16 times as many tokens hold 16 times as many, at most 64."""
    tag = draw.choice(material.nouns)
    context, values = _tagged(material, draw, units, min(64, max(8, limit // 512)), tag)
    prompt = (f"Notes of the {tag} office are hidden within the following text. Memorize the sum of every note.\n{context}\n"
              f"List the sums of all notes of the {tag} office in the order of the text.")
    return Sample("aggregate_list", limit, index, prompt, f" The sums of the notes of the {tag} office are:", [str(v) for v in values], "match_all", 6 * len(values))


def make_tally(material: Material, draw: random.Random, units: int, limit: int, index: int) -> Sample:
    """How many notes there are."""
    tag, count = draw.choice(material.nouns), draw.randrange(3, 13)
    context, _ = _tagged(material, draw, units, count, tag)
    prompt = (f"Notes of the {tag} office are hidden within the following text. Count them.\n{context}\n"
              f"How many notes of the {tag} office are in the text above? Answer with a number.")
    return Sample("aggregate_count", limit, index, prompt, " The number of notes is", [str(count)], "exact_number", 8)


def tasks(material: Material) -> list[Task]:
    text = lambda n: 100 if n >= 4096 else 20
    return [Task("synthqa_1", lambda d, u, n, i: make_qa(material, d, u, n, i, 1), lambda n: 10 if n >= 4096 else 2, least=2),
            Task("synthqa_2", lambda d, u, n, i: make_qa(material, d, u, n, i, 2), lambda n: 10 if n >= 4096 else 2, least=2),
            Task("extract", lambda d, u, n, i: make_extract(material, d, u, n, i), lambda n: 5, least=3),
            Task("aggregate_list", lambda d, u, n, i: make_list(material, d, u, n, i), text),
            Task("aggregate_count", lambda d, u, n, i: make_tally(material, d, u, n, i), text)]


def parse_array(text: str) -> list[str]:
    """The strings of a JSON array at the start of the text, cut off or not."""
    text = text[text.find("["):] if "[" in text else text
    for end in range(text.count('"'), 0, -1):
        pieces = text.split('"')
        try:
            return [str(item) for item in json.loads('"'.join(pieces[:end]) + '"]')]
        except ValueError:
            continue
    return []
