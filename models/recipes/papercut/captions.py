"""Captions of a scene in Chinese and English, from a bare noun to a full sentence.

`caption` returns the text and what it says: a dict from attribute to value, "unsaid" for what it leaves open.  Text and
meaning come from one place, so the meaning can train the text encoder (see text_encoder.py) and judge the result.
"""
from __future__ import annotations

import random

from . import world
from .world import Scene

UNSAID = "unsaid"
LANGUAGES = ("zh", "en")
ATTRIBUTES = ("subject", "place", "time", "color", "action", "direction", "camera", "weather", "other", "pillars")

ZH = {
    "subject": {"cat": ("猫", "猫", "猫咪", "小猫"), "dog": ("狗", "狗狗", "小狗"), "butterfly": ("蝴蝶",), "bird": ("鸟", "小鸟", "鸟儿"),
                "fish": ("鱼", "小鱼", "鱼儿"), "drone": ("无人机",), "ball": ("球", "皮球", "小球"), "car": ("汽车", "小汽车", "车"), "person": ("人", "小人", "行人")},
    "counter": {"cat": ("一只", "只", "这只"), "dog": ("一只", "一条"), "butterfly": ("一只",), "bird": ("一只",), "fish": ("一条", "一只"),
                "drone": ("一架", "一台"), "ball": ("一个", "一只"), "car": ("一辆", "一台"), "person": ("一个", "一位")},
    "place": {"windowsill": ("窗台", "窗台", "窗边"), "snow": ("雪地", "雪地", "雪", "雪景"), "garden": ("花园", "花园", "花丛"),
              "underwater": ("水下遗迹", "水下遗迹", "海底遗迹", "水下", "海底", "水下的遗迹"), "ruins": ("古代遗迹", "古代遗迹", "遗迹", "古迹", "古代的遗迹"), "city": ("城市", "城市", "街道", "都市"), "seaside": ("海边", "海边", "沙滩", "海滩")},
    "inside": {"windowsill": ("上",), "snow": ("里", "中", "上"), "garden": ("里", "中"), "underwater": ("中", "里"), "ruins": ("中", "里", "上空", "前"), "city": ("里", "中"), "seaside": ("",)},
    "time": {"day": ("白天", "白日", "晴天"), "sunset": ("日落", "日落时", "黄昏", "傍晚", "夕阳下", "夕阳"), "night": ("夜晚", "夜里", "晚上", "月光下", "月夜", "夜空下")},
    "color": {"red": "红", "orange": "橙", "yellow": "黄", "green": "绿", "blue": "蓝", "purple": "紫", "pink": "粉", "brown": "棕", "black": "黑", "white": "白", "grey": "灰"},
    "action": {"sit": ("坐着", "坐", "静静地坐着"), "run": ("奔跑", "跑", "跑步", "跑着"), "fly": ("飞", "飞舞", "飞行", "飞翔", "飞着"), "swim": ("游", "游动", "游泳", "游着"),
               "hover": ("悬停", "盘旋", "悬停着"), "bounce": ("弹跳", "跳动", "跳"), "roll": ("滚动", "滚", "滚着"),
               "jump": ("跳跃", "跳", "跳着"), "walk": ("走路", "走", "散步"), "drive": ("行驶", "开", "开着")},
    "direction": {"left": ("向左", "往左", "朝左"), "right": ("向右", "往右", "朝右"), "towards": ("朝镜头", "迎面"), "away": ("向远处", "往远处")},
    "camera": {"pan left": ("镜头左移", "镜头向左平移", "向左摇"), "pan right": ("镜头右移", "镜头向右平移", "向右摇"), "zoom in": ("镜头推近", "镜头拉近", "推进"), "zoom out": ("镜头拉远", "镜头后退"),
               "tilt up": ("镜头上摇", "镜头向上"), "tilt down": ("镜头下摇", "镜头向下"), "orbit": ("镜头环绕", "环绕拍摄")},
    "weather": {"snow": ("下着雪", "雪花飘落", "飘着雪", "下雪"), "rain": ("下着雨", "下雨", "雨中")},
    "pillars": {"yes": ("从柱子后面经过", "经过柱子后面")},
    "nice": ("可爱的", "漂亮的", "美丽的", "小小的"),
    "style": ("剪纸风格，", "剪纸动画：", "一段视频，", "视频："),
}
EN = {
    "subject": {"cat": ("cat", "cat", "kitten", "kitty"), "dog": ("dog", "dog", "puppy"), "butterfly": ("butterfly",), "bird": ("bird",), "fish": ("fish",),
                "drone": ("drone", "drone", "quadcopter"), "ball": ("ball", "beach ball"), "car": ("car", "car", "automobile"), "person": ("person", "child", "kid")},
    "place": {"windowsill": ("on a windowsill", "on the windowsill", "on a window sill", "by the window", "at a window"),
              "snow": ("in the snow", "in a snowy field", "on a snowy field", "in snow"), "garden": ("in a garden", "in the garden", "among flowers"),
              "underwater": ("in underwater ruins", "in sunken ruins", "underwater", "under the sea", "in the underwater ruins", "under water"),
              "ruins": ("in ancient ruins", "over ancient ruins", "among the ruins", "at the ruins of an ancient temple", "in front of ancient ruins", "above the ruins"),
              "city": ("in the city", "in a city", "on a street", "downtown"), "seaside": ("at the seaside", "on the beach", "by the sea")},
    "bare": {"windowsill": ("windowsill", "a windowsill", "a window", "window sill"), "snow": ("snow", "a snowy field", "snowy landscape"), "garden": ("garden", "a garden", "the garden", "a flower garden"),
             "underwater": ("underwater ruins", "sunken ruins", "underwater"), "ruins": ("ancient ruins", "ruins", "an ancient temple"), "city": ("city", "a city", "a street", "the city"), "seaside": ("seaside", "a beach", "the seaside")},
    "time": {"day": ("by day", "in the daytime", "during the day", "on a sunny day"), "sunset": ("at sunset", "at dusk", "in the evening", "during sunset", "as the sun sets"),
             "night": ("at night", "by moonlight", "in the night", "under the moon", "under the stars")},
    "color": {c: (c,) for c in ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white")} | {"grey": ("grey", "gray")},
    "doing": {"sit": ("sitting", "resting"), "run": ("running", "racing"), "fly": ("flying", "fluttering"), "swim": ("swimming",), "hover": ("hovering", "floating"), "bounce": ("bouncing", "jumping"), "roll": ("rolling",), "jump": ("jumping", "leaping"),
              "walk": ("walking", "strolling"), "drive": ("driving",)},
    "does": {"sit": ("sits", "rests"), "run": ("runs", "races"), "fly": ("flies", "flutters"), "swim": ("swims",), "hover": ("hovers", "floats"), "bounce": ("bounces", "jumps"), "roll": ("rolls",), "jump": ("jumps", "leaps"),
             "walk": ("walks", "strolls"), "drive": ("drives",)},
    "direction": {"left": ("to the left", "left", "towards the left"), "right": ("to the right", "right", "towards the right"), "towards": ("towards the camera",), "away": ("away from the camera", "into the distance")},
    "camera": {"pan left": ("camera pans left", "pan left", "the camera moves left"), "pan right": ("camera pans right", "pan right", "the camera moves right"),
               "zoom in": ("camera zooms in", "zoom in", "the camera moves closer"), "zoom out": ("camera zooms out", "zoom out", "the camera moves back"),
               "tilt up": ("camera tilts up", "tilt up"), "tilt down": ("camera tilts down", "tilt down"), "orbit": ("camera orbits", "orbit shot", "the camera circles around")},
    "weather": {"snow": ("snow is falling", "snowing", "snowflakes falling", "with falling snow"), "rain": ("it is raining", "in the rain", "rain is falling")},
    "pillars": {"yes": ("passing behind pillars", "passing behind columns")},
    "nice": ("cute", "little", "beautiful", "small", "lovely"),
    "style": ("a video of ", "paper cut animation of ", "a paper cut scene of ", "video, "),
}


VALUES = {  # what a caption can say of each attribute
    "subject": world.SUBJECTS, "place": world.PLACES, "time": tuple(world.TIMES), "color": tuple(world.COLORS)[1:], "action": world.ALL_ACTIONS,
    "direction": world.DIRECTIONS[1:], "camera": world.CAMERAS[1:], "weather": world.WORLD.weathers[1:],
    "other": world.SUBJECTS, "pillars": ("yes",),
}


def choose_said(scene: Scene, rng: random.Random) -> dict[str, str]:
    """Which attributes a caption of this scene mentions.  What it leaves out is as usual: by day, in the first of a subject's
    colours and actions, to the right, with a still camera; only a place may be left to chance."""
    detail = rng.choice((.15, .5, .5, .85))  # how talkative this caption is
    odds = lambda p: rng.random() < p
    said = dict.fromkeys(ATTRIBUTES, UNSAID)
    said["subject"] = scene.subject
    if scene.subject == "none" or odds(.9 if detail > .2 else .6):
        said["place"] = scene.place
    if scene.time != "day" or odds(detail):
        said["time"] = scene.time
    if scene.subject != "none":
        if scene.color != world.NATURAL[scene.subject][0] or odds(detail * .8):
            said["color"] = scene.color
        way = scene.direction != "none" and (scene.direction != "right" or odds(detail))
        if way or scene.action != world.WORLD.actions[scene.subject][0] or odds(.3 + detail * .7):
            said["action"] = scene.action  # a way goes with what is done on it
        if way:
            said["direction"] = scene.direction
    if scene.camera != "static":
        said["camera"] = scene.camera
    if scene.weather == "rain" or (scene.weather == "snow" and odds(detail * .6)):
        said["weather"] = scene.weather
    if scene.other != "none":
        said["other"] = scene.other
    if scene.pillars and odds(.8):
        said["pillars"] = "yes"
    return said


def caption(scene: Scene, rng: random.Random, language: str | None = None, said: dict[str, str] | None = None) -> tuple[str, dict[str, str]]:
    """A caption of `scene`; `said` fixes what it mentions (default: drawn by `choose_said`)."""
    said = said or choose_said(scene, rng)
    language = language or rng.choice(LANGUAGES)
    text = (chinese if language == "zh" else english)(said, rng)
    if rng.random() < .06:
        text = rng.choice((ZH if language == "zh" else EN)["style"]) + text
    if rng.random() < .12:
        text += "。" if language == "zh" else "."
    return text, said


def chinese(said: dict[str, str], rng: random.Random) -> str:
    pick = lambda key, value: rng.choice(ZH[key][value])
    has = lambda key: said.get(key, UNSAID) not in (UNSAID, "none")
    place = pick("place", said["place"]) if has("place") else ""
    inside = place + rng.choice(("", pick("inside", said["place"]), pick("inside", said["place"]))) if place else ""
    time = pick("time", said["time"]) if has("time") else ""
    tail = []
    if has("weather"):
        tail.append(pick("weather", said["weather"]))
    if has("camera"):
        tail.append(pick("camera", said["camera"]))
    if has("pillars"):
        tail.append(pick("pillars", "yes"))
    if said["subject"] == "none":
        parts = [time + "的" + place, place + "，" + time, time + "，" + place, "日落时的" + place if said["time"] == "sunset" else time + "的" + place] if time else [place, place, rng.choice(ZH["nice"]) + place]
        return "，".join([rng.choice(parts), *tail])
    noun = pick("subject", said["subject"])
    color = ""
    if has("color"):
        c = ZH["color"][said["color"]]
        color = rng.choice((c + "色的", c + "色的", c + "色", c + "的"))
    elif rng.random() < .08:
        color = rng.choice(ZH["nice"])
    if has("other"):
        noun += rng.choice(("和", "与")) + pick("counter", said["other"]) + pick("subject", said["other"])
    thing = rng.choice(("", pick("counter", said["subject"]), pick("counter", said["subject"]))) + color + noun
    action = pick("action", said["action"]) if has("action") else ""
    way = pick("direction", said["direction"]) if has("direction") else ""
    watch = said["time"] == "sunset" and rng.random() < .35
    style = rng.random()
    if watch and said["subject"] in ("cat", "dog", "bird", "butterfly") and said["action"] in ("sit", UNSAID):
        sits = "坐" if said["action"] == "sit" else ""
        where = (sits + "在" + inside) if inside else (sits + "着" if sits else "")
        text = thing + where + rng.choice(("看日落", "看着日落", "看夕阳", "欣赏日落"))
        time = ""
    elif said["action"] == "sit" and inside and style < .6:
        text = thing + "坐在" + inside
    elif style < .25:
        text = "，".join(x for x in (color + noun, place, way + action) if x)
    elif style < .5 and inside:
        text = inside + "的" + color + noun + rng.choice(("", "在")) * bool(action) + way + action
        if text.endswith("在"):
            text = text[:-1]
    elif style < .65 and inside:
        text = inside + rng.choice(("有", "，")) + thing + (("在" if rng.random() < .5 else "") + way + action if action else "")
    else:
        text = thing + ("在" + inside if inside else "") + (rng.choice(("", "正在" if not inside else "")) + way + action if action else "")
    if time:
        text = rng.choice((time + "，" + text, text + "，" + time, time + text if style >= .25 else text + "，" + time))
    return "，".join([text, *tail])


def english(said: dict[str, str], rng: random.Random) -> str:
    pick = lambda key, value: rng.choice(EN[key][value])
    has = lambda key: said.get(key, UNSAID) not in (UNSAID, "none")
    time = pick("time", said["time"]) if has("time") else ""
    tail = []
    if has("weather"):
        tail.append(pick("weather", said["weather"]))
    if has("camera"):
        tail.append(pick("camera", said["camera"]))
    if has("pillars"):
        tail.append(pick("pillars", "yes"))
    if said["subject"] == "none":
        place = pick("bare", said["place"])
        text = rng.choice((place + " " + time, place + ", " + time, time + ", " + place)) if time else place
        return ", ".join([text, *tail])
    noun, place = pick("subject", said["subject"]), (pick("place", said["place"]) if has("place") else "")
    adjective = pick("color", said["color"]) if has("color") else (rng.choice(EN["nice"]) if rng.random() < .08 else "")
    words = (adjective + " " + noun).strip() + (" and a " + pick("subject", said["other"]) if has("other") else "")
    article = rng.choice(("", "the ", "an " if words[0] in "aeiou" else "a ", "an " if words[0] in "aeiou" else "a "))
    thing = article + words
    way = pick("direction", said["direction"]) if has("direction") else ""
    style = rng.random()
    if said["time"] == "sunset" and rng.random() < .35 and said["action"] in ("sit", UNSAID):
        verb = rng.choice(("sitting", "sits")) if said["action"] == "sit" else ""
        text = " ".join(x for x in (thing, verb, place, rng.choice(("watching the sunset", "looking at the sunset", "and watching the sunset"))) if x)
        time = ""
    elif style < .2:
        bare = pick("bare", said["place"]) if has("place") else ""
        text = ", ".join(x for x in (words, bare, " ".join(y for y in ((pick("doing", said["action"]) if has("action") else ""), way) if y)) if x)
    else:
        verb = ""
        if has("action"):
            verb = rng.choice((pick("doing", said["action"]), "is " + pick("doing", said["action"]), pick("does", said["action"])))
        parts = (thing, verb, way, place) if rng.random() < .6 else (thing, verb, place, way)
        text = " ".join(x for x in parts if x)
        if place and not verb and rng.random() < .15:
            text = "there is " + text
    if time:
        text = rng.choice((text + " " + time, text + ", " + time, time + ", " + text))
    return ", ".join([text, *tail])


def known_words() -> list[str]:
    """All words and phrases that captions are made of, and a few that people add without changing the meaning."""
    words: list[str] = ["和", "与"]

    def walk(x):
        if isinstance(x, str):
            words.append(x)
        else:
            for v in x.values() if isinstance(x, dict) else x:
                walk(v)

    walk(ZH)
    walk(EN)
    words += ("a an the is are there and in on at of with sitting sits watching looking sunset temple sun moon stars star flower flowers tree trees "
              "坐在 在 看着 看 日落 夕阳 欣赏 正在 着 色 的 有 里 中 上 了 时 时候 它 它们 太阳 月亮 星星 树 花 一 只 静静地 下 "
              ", . ! ? : ; - ' \" ( ) ， 。 ！ ？ ： ； 、 “ ” （ ） ·").split()
    return words
