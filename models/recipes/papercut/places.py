"""The places: few, large, flat layers of paper, from the sky to the ground the subject stands on, and what is nearer."""
from __future__ import annotations

import math

from .shapes import mix
from .stage import Stage, hashed

SKIES = {"day": ((84, 166, 242), (206, 234, 250)), "sunset": ((104, 64, 152), (255, 178, 92)), "night": ((14, 18, 56), (52, 66, 132))}
SEAS = {"day": ((64, 190, 216), (14, 86, 146)), "sunset": ((164, 112, 160), (48, 58, 124)), "night": ((24, 56, 110), (6, 20, 60))}
GROUND = .15  # y of the horizon of the subject's layer


def sky(st: Stage) -> None:
    """The sky and its one sun or moon; underwater, beams of light."""
    time, pen = st.scene.time, st.pen
    under = st.scene.place == "underwater"
    pen.gradient(st.height, *(SEAS if under else SKIES)[time])
    st.enter(.03 if not under else .1)
    if under:
        for k in range(2):
            x = -.45 + .75 * k + st.r(0, 0, k, -.08, .08) + .03 * math.sin(.25 * math.pi * st.t + k)
            pen.polygon([(x, -1.2), (x + .2, -1.2), (x - .02, .7), (x - .40, .7)], (235, 255, 255), .15 if time != "night" else .07)
    else:
        x, up = st.half_w * st.r(0, 0, 0, .36, .50), -st.drop
        if time == "day":
            pen.circle(x, -.32 + up, .12, (255, 244, 190), .6)
            pen.circle(x, -.32 + up, .09, (255, 214, 60))
            for k in range(2):
                cx, cy = st.half_w * (-.25 - .5 * k) + st.r(0, 1, k, -.06, .06), -.34 + .06 * k + up + st.r(0, 1, 2 + k, -.03, .03)
                for dx, dy, r in ((-.09, .012, .045), (0, -.014, .066), (.09, .012, .048)):
                    pen.circle(cx + dx, cy + dy, r, (255, 255, 255))
        elif time == "sunset":
            y = -.26 if st.scene.place == "city" else -.15  # above the roofs
            pen.circle(x, y, .19, (255, 204, 120), .5)
            pen.circle(x, y, .135, (255, 88, 44))
        else:
            for k in range(6):
                star_x = (k - 3.6) * st.half_w * .36 + st.r(0, 2, k, -.05, .05)
                pen.star(star_x, st.r(0, 3, k, -.45, -.22) + up, st.r(0, 4, k, .026, .036), (255, 246, 190))
            pen.moon(x, -.31 + up, .115, (252, 242, 190))
    st.leave()


def hills(st: Stage, layer: int, p: float, base: float, height: float, wave: float, color) -> None:
    """A smooth ridge across the frame."""
    lo, hi = st.enter(p)
    a, b = st.r(layer, 0, 0, 0, 6.3), st.r(layer, 0, 1, 0, 6.3)
    n = 20
    xs = [lo + (hi - lo) * i / n for i in range(n + 1)]
    points = [(x, base - height * (.5 + .36 * math.sin(x * wave + a) + .14 * math.sin(x * wave * 1.9 + b))) for x in xs]
    st.pen.cut([*points, (hi, 2), (lo, 2)], st.light(color))
    st.leave()


def ground(st: Stage, color, y: float = GROUND) -> tuple[float, float]:
    """Enters the subject's layer and lays its ground."""
    lo, hi = st.enter(1.)
    st.pen.cut([(lo, y), (hi, y), (hi, 3), (lo, 3)], st.light(color))
    return lo, hi


def garden(st: Stage) -> None:
    hills(st, 1, .2, .12, .18, 4., (138, 202, 148))
    lo, hi = st.enter(.55)
    for k in st.cells(lo, hi, .78, .35):
        x, s = .78 * k + st.r(2, k, 0, -.08, .08), st.r(2, k, 1, .92, 1.12)
        st.pen.rect(x - .032 * s, -.05, .064 * s, .35, st.light((134, 88, 54)))
        st.pen.blob(x, -.10 * s, .20 * s, st.light(st.choice(2, k, 2, ((56, 148, 74), (56, 148, 74), (100, 174, 70)))))
    st.leave()
    ground(st, (116, 196, 86))
    st.leave()


def garden_front(st: Stage) -> None:
    lo, hi = st.enter(1.25)
    for k in st.cells(lo, hi, .34, .15):
        color = st.choice(3, k, 0, ((238, 70, 96), (252, 206, 56), (186, 104, 230), (255, 255, 255)))
        x, y = .34 * k + st.r(3, k, 1, -.05, .05), .425 + st.r(3, k, 3, -.02, .02)
        st.pen.flower(x, y, .062, st.light(color), st.light((48, 128, 58)), st.light((255, 226, 110) if color != (252, 206, 56) else (240, 140, 50)))
    st.leave()


def snow(st: Stage) -> None:
    hills(st, 1, .2, .12, .30, 3.6, (190, 208, 234))
    lo, hi = st.enter(.55)
    for k in st.cells(lo, hi, .66, .3):
        x, s = .66 * k + st.r(2, k, 0, -.07, .07), st.r(2, k, 1, .9, 1.15)
        st.pen.rect(x - .026, .08, .052, .16, st.light((112, 80, 62)))
        for y, w in ((.16, .21), (.02, .165), (-.11, .12)):
            y = .19 + (y - .19) * s
            st.pen.cut([(x - w * s, y), (x, y - .22 * s), (x + w * s, y)], st.light((52, 122, 104)))
            st.pen.polygon([(x - w * s * .5, y - .11 * s), (x, y - .22 * s), (x + w * s * .5, y - .11 * s), (x, y - .075 * s)], st.light((250, 252, 255)))
    st.leave()
    ground(st, (243, 247, 253))
    st.leave()


def snow_front(st: Stage) -> None:
    lo, hi = st.enter(1.25)
    for k in st.cells(lo, hi, 1.1, .5):
        x = 1.1 * k + st.r(3, k, 0, -.2, .2)
        st.pen.ellipse(x, .56, .5, .12, st.light((214, 228, 246)))
    st.leave()


def windowsill(st: Stage) -> None:
    hills(st, 1, .15, .12, .20, 4., (146, 186, 158))
    hills(st, 2, .3, .18, .14, 5.5, (104, 160, 112))
    frame, wall = st.light((252, 248, 240)), st.light((232, 186, 150))
    step = min(1.5, max(1.0, 1.9 * st.half_w))
    lo, hi = st.enter(1.)
    cloth = st.light(st.choice(3, 0, 0, ((216, 76, 76), (76, 136, 200), (240, 178, 70))))
    for k in st.cells(lo, hi, step, 1.):
        x = step * (k + .5)  # a stretch of wall between two windows, with their curtains
        st.pen.cut([(x - .10, -2), (x + .10, -2), (x + .10, GROUND), (x - .10, GROUND)], wall)
        for side in (-1, 1):
            st.pen.cut([(x + side * .07, -2), (x + side * .26, -2), (x + side * .23, -.14), (x + side * .15, GROUND), (x + side * .07, GROUND)], cloth)
        st.pen.cut([(step * k - .022, -2), (step * k + .022, -2), (step * k + .022, GROUND), (step * k - .022, GROUND)], frame)
    st.pen.cut([(lo, -.40), (hi, -.40), (hi, -.355), (lo, -.355)], frame)
    st.pen.cut([(lo, GROUND), (hi, GROUND), (hi, .43), (lo, .43)], frame)
    st.pen.cut([(lo, .43), (hi, .43), (hi, 3), (lo, 3)], st.light((186, 124, 78)))
    st.leave()


def column(st: Stage, x: float, foot: float, height: float, width: float, color, broken: bool) -> None:
    """A column with a shaded side, whole with a capital or broken off."""
    top, w = foot - height, width / 2
    dark = mix(color, (0, 0, 0), .16)
    if broken:
        st.pen.cut([(x - w, foot), (x - w, top + .04), (x - w * .1, top - .03), (x + w * .3, top + .05), (x + w, top), (x + w, foot)], color)
        st.pen.polygon([(x + w * .3, foot), (x + w * .3, top + .05), (x + w, top), (x + w, foot)], dark)
    else:
        st.pen.cut([(x - w, foot), (x - w, top), (x + w, top), (x + w, foot)], color)
        st.pen.rect(x + w * .3, top, w * .7, height, dark)
        st.pen.cut([(x - w * 1.5, top + .05), (x - w * 1.5, top), (x + w * 1.5, top), (x + w * 1.5, top + .05)], mix(color, (255, 255, 255), .14))
    st.pen.cut([(x - w * 1.5, foot + .01), (x - w * 1.5, foot - .04), (x + w * 1.5, foot - .04), (x + w * 1.5, foot + .01)], color)


def colonnade(st: Stage, color) -> None:
    """Gates and temples of two columns, beside broken columns."""
    lo, hi = st.enter(.6)
    for k in st.cells(lo, hi, 1.12, .6):
        x, h = 1.12 * k - .30 + st.r(2, k, 0, -.06, .06), st.r(2, k, 2, .36, .42)
        stone = st.light(mix(color, (255, 255, 255), st.r(2, k, 1, 0, .12)))
        for side in (-1, 1):
            column(st, x + side * .20, .22, h, .12, stone, False)
        st.pen.cut([(x - .34, .22 - h), (x - .34, .13 - h), (x + .34, .13 - h), (x + .34, .22 - h)], stone)
        if st.r(2, k, 3) < .6:
            st.pen.cut([(x - .37, .13 - h), (x, -.02 - h), (x + .37, .13 - h)], stone)
        column(st, x + .56, .22, st.r(2, k, 4, .14, .26), .13, stone, True)
    st.leave()


def ruins(st: Stage) -> None:
    lo, hi = st.enter(.2)
    for k in st.cells(lo, hi, 1.05, .6):
        x, s = 1.05 * k + st.r(1, k, 0, -.12, .12), st.r(1, k, 1, .85, 1.1)
        st.pen.cut([(x - .46 * s, .25), (x, .22 - .36 * s), (x + .46 * s, .25)], st.light((230, 190, 134)))
        st.pen.polygon([(x + .46 * s, .25), (x, .22 - .36 * s), (x + .10 * s, .25)], st.light((206, 164, 112)))
    st.leave()
    colonnade(st, (218, 200, 166))
    ground(st, (226, 190, 126))
    st.leave()


def stones(st: Stage, color) -> None:
    lo, hi = st.enter(1.25)
    for k in st.cells(lo, hi, .9, .3):
        x, y = .9 * k + st.r(3, k, 0, -.2, .2), .55
        st.pen.cut([(x - .15, y), (x - .12, y - .11), (x + .09, y - .12), (x + .14, y)], st.light(color))
    st.leave()


def ruins_front(st: Stage) -> None:
    stones(st, (186, 158, 116))


def underwater(st: Stage) -> None:
    hills(st, 1, .2, .16, .26, 3.8, {"day": (46, 130, 164), "sunset": (84, 90, 144), "night": (34, 66, 116)}[st.scene.time])
    colonnade(st, (158, 200, 186))
    ground(st, (232, 212, 150))
    st.leave()


def underwater_front(st: Stage) -> None:
    lo, hi = st.enter(1.25)
    for k in st.cells(lo, hi, .62, .3):
        x = .62 * k + st.r(3, k, 0, -.12, .12)
        color = st.light(st.choice(3, k, 5, ((54, 164, 88), (54, 164, 88), (228, 92, 120))), .8)
        for i in (0, 1):
            sway = .04 * math.sin(.5 * math.pi * st.t + k + i)
            st.pen.ribbon(x + i * .085, .54, st.r(3, k, 1 + i, .22, .34), .036, sway, color)
    st.leave()
    bubbles(st)


def bubbles(st: Stage) -> None:
    _, high = st.enter_frame()
    high += .2
    for k in range(5):
        x = (st.r(8, k, 0, 0, 2) + .03 * math.sin(2 * st.t + k) - st.way(1.25)) % 2 - 1
        y = high / 2 - (st.r(8, k, 1) * high + st.t * st.r(8, k, 2, .12, .2)) % high
        st.pen.circle(x * st.half_w * 1.1, y, st.r(8, k, 3, .020, .030), (225, 246, 255), .8)
    st.leave()


def city(st: Stage) -> None:
    lo, hi = st.enter(.2)
    for k in st.cells(lo, hi, .3, .3):
        w, h = .3 * st.r(1, k, 0, .76, .98), st.r(1, k, 1, .30, .58)
        st.pen.cut([(.3 * k, .25), (.3 * k, .25 - h), (.3 * k + w, .25 - h), (.3 * k + w, .25)], st.light((166, 182, 206)))
    st.leave()
    lo, hi = st.enter(.5)
    for k in st.cells(lo, hi, .46, .4):
        w, h, x = .46 * st.r(2, k, 0, .80, .96), .08 + .13 * st.choice(2, k, 1, (2, 2, 3, 3)), .46 * k
        color = st.light(st.choice(2, k, 2, ((212, 110, 92), (104, 130, 178), (228, 182, 112), (122, 156, 142))))
        st.pen.cut([(x, .29), (x, .24 - h), (x + w, .24 - h), (x + w, .29)], color)
        for row in range(round((h - .08) / .13)):
            for col in (0, 1):
                if st.scene.time == "day":
                    pane = (204, 232, 248)
                else:
                    pane = (255, 220, 116) if st.r(2, k, 10 + 2 * row + col) < .75 else st.light((72, 84, 120))
                st.pen.rect(x + w * (.15 + .40 * col), .24 - h + .05 + .13 * row, w * .29, .075, pane)
    st.leave()
    lo, hi = ground(st, (184, 178, 174), y=.17)
    st.pen.rect(lo, .25, hi - lo, 2, st.light((98, 100, 114)))
    for k in st.cells(lo, hi, .5, .3):
        st.pen.rect(.5 * k, .445, .26, .03, st.light((252, 242, 212)))
    st.leave()


def seaside(st: Stage) -> None:
    lo, hi = st.enter(.15)
    st.pen.rect(lo, -.02, hi - lo, 2, st.light((40, 128, 196)))
    st.leave()
    lo, hi = st.enter(.4)
    for k in st.cells(lo, hi, 1.8, .4):  # a sailing boat now and then
        x = 1.8 * k + .45 + st.r(1, k, 0, -.15, .15)
        st.pen.cut([(x - .01, -.26), (x - .01, .0), (x - .15, .0)], st.light((255, 255, 250)))
        st.pen.cut([(x + .015, -.22), (x + .015, .0), (x + .12, .0)], st.light((250, 236, 214)))
        st.pen.cut([(x - .17, .02), (x + .17, .02), (x + .11, .08), (x - .11, .08)], st.light((206, 72, 60)))
    st.leave()
    for layer, p, y, color in ((2, .5, .06, (70, 166, 220)), (3, .7, .12, (136, 206, 232))):
        lo, hi = st.enter(p)
        lo, n = math.floor(lo / .2) * .2, math.ceil((hi - math.floor(lo / .2) * .2) / .1)
        way = .05 * math.sin(.5 * math.pi * st.t + layer)
        crest = [(lo - .2 + .1 * i + way, y + .02 * (i % 2)) for i in range(n + 5)]
        st.pen.cut([*crest, (crest[-1][0], 2), (crest[0][0], 2)], st.light(color))
        st.leave()
    ground(st, (244, 220, 160), y=.19)
    st.leave()


def seaside_front(st: Stage) -> None:
    lo, hi = st.enter(1.25)
    for k in st.cells(lo, hi, 1., .3):
        x = k + st.r(4, k, 0, -.2, .2)
        st.pen.star5(x, .46, .075, st.light((240, 120, 80)))
    st.leave()


PLACES = {"windowsill": windowsill, "snow": snow, "garden": garden, "underwater": underwater, "ruins": ruins, "city": city, "seaside": seaside}
FRONTS = {"snow": snow_front, "garden": garden_front, "underwater": underwater_front, "ruins": ruins_front, "seaside": seaside_front}


def snowflakes(st: Stage) -> None:
    wide, high = st.enter_frame()
    wide, high = wide + .2, high + .1
    for k in range(int(11 * wide * high / 1.8)):
        x = (st.r(8, k, 0) * wide + .05 * math.sin(st.t + k) - st.way(1.2)) % wide - wide / 2
        y = (st.r(8, k, 1) * high + st.t * st.r(8, k, 2, .16, .26)) % high - high / 2
        st.pen.circle(x, y, st.r(8, k, 3, .017, .025), (255, 255, 255))
    st.leave()


def rain(st: Stage) -> None:
    st.pen.veil((70, 84, 110), .30)
    wide, high = st.enter_frame()
    wide, high = wide + .3, high + .3
    for k in range(int(8 * wide * high / 1.8)):
        # The same rain in all scenes, which falls through the frame in a second; the lower half looks like the upper, so that half a second is a loop.
        x = (hashed(0, 8, k, 0) * wide - st.way(1.2)) % wide - wide / 2
        for half in (0, 1):
            y = ((hashed(0, 8, k, 1) + 2 * st.t) % 1 + half - 1) * high / 2
            st.pen.line(x, y, x - .035, y + .13, .013, (214, 230, 250))
    st.leave()


WEATHER = {"snow": snowflakes, "rain": rain}
