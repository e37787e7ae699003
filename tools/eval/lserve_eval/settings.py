"""Attention settings under comparison: what a request says itself, and what the server must be started with."""
import dataclasses

REQUEST_KEYS = {"attention": str, "budget": int, "audit": int}


@dataclasses.dataclass(frozen=True)
class Setting:
    name: str
    request: tuple = ()  # ((key, value), ...) of the request's "lserve" object
    server: tuple = ()  # ((flag without dashes, value), ...)
    plain: bool = False  # nothing of lserve's is sent

    def own(self) -> dict:
        return {} if self.plain or not self.request else {"lserve": dict(self.request)}

    def definition(self) -> dict:
        """What the name stands for, as a file of results keeps it."""
        return {"request": dict(self.request), "server": self.flags()}

    def flags(self) -> list[str]:
        """A value of None stands for a flag without one."""
        return [word for key, value in self.server for word in ([f"--{key}"] if value is None else [f"--{key}", str(value)])]


def parse(spec: str) -> Setting:
    """NAME:key=value,key=value. attention, budget and audit go into the request, other keys are flags of `lserve serve`."""
    name, _, rest = spec.partition(":")
    if not name:
        raise ValueError(f"--setting {spec}: the name is missing")
    if not rest:
        if name in ("dense", "lserve"):
            return Setting(name, (("attention", name),))
        return Setting(name, plain=True)
    return from_mapping(name, dict(_pair(spec, part) for part in rest.split(",")))


def _pair(spec: str, part: str) -> tuple[str, str | None]:
    key, given, value = part.partition("=")
    if not key:
        raise ValueError(f"--setting {spec}: '{part}' is no key=value")
    return key, value if given else None


def from_mapping(name: str, values: dict) -> Setting:
    request, server = [], []
    for key, value in values.items():
        if key in REQUEST_KEYS:
            try:
                request.append((key, REQUEST_KEYS[key](value)))
            except (TypeError, ValueError):
                raise ValueError(f"setting {name}: {key} cannot be {value!r}") from None
        else:
            server.append((key, value))
    if not any(key == "attention" for key, _ in request):
        request.insert(0, ("attention", "lserve"))
    return Setting(name, tuple(request), tuple(sorted(server, key=str)))


def by_server(settings: list[Setting]) -> list[tuple[tuple, list[Setting]]]:
    """Settings that can share a server, together."""
    groups: dict[tuple, list[Setting]] = {}
    for setting in settings:
        groups.setdefault(setting.server, []).append(setting)
    return list(groups.items())
