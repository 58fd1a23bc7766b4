"""Say in words what a scene shows: a caption, and a dictionary of all that varies."""

from __future__ import annotations

from .look import Look
from .scenes import Dancer, Scene


def attributes_of(scene: Scene) -> dict[str, str]:
    """List what varies from scene to scene and can be seen, as words."""
    look, steps = scene.main.look, scene.main.steps
    return {
        "style": look.style,
        "top": "dress" if look.bottom == "dress" else look.top,
        "top_colour": look.top_colour,
        "pattern": look.pattern,
        "pattern_colour": look.pattern_colour if look.pattern != "plain" else "none",
        "bottom": look.bottom,
        "bottom_colour": look.bottom_colour,
        "shoes": look.shoes,
        "hair": look.hair,
        "hair_colour": look.hair_colour if look.hair != "bald" else "none",
        "hat": look.hat,
        "hat_colour": look.hat_colour if look.hat != "none" else "none",
        "glasses": "glasses" if look.glasses else "none",
        "beard": "beard" if look.beard else "none",
        "prop": look.prop,
        "prop_colour": look.prop_colour if look.prop != "none" else "none",
        "move": steps.named("moves", scene.seconds)[0],
        "arms": steps.named("arms", scene.seconds)[0],
        "wall": scene.wall,
        "wall_colour": look.wall,
        "framing": scene.framing,
        "occluder": scene.occluder,
        "light": scene.film.light,
        "camera": scene.film.camera,
        "blur": "motion blur" if scene.film.blur else "none",
    }


def caption_of(scene: Scene) -> str:
    """Describe a scene in a few plain sentences."""
    sentences = [f"{_dancer(dancer, scene.seconds)}." for dancer in scene.dancers]
    return " ".join([*sentences, _surroundings(scene)])


def _dancer(dancer: Dancer, seconds: float) -> str:
    look = dancer.look
    who = "A cartoon dancer" if look.cartoon else "A dancer"
    moves = " and then ".join(dancer.steps.named("moves", seconds)[:2])
    arms = dancer.steps.named("arms", seconds)[0]
    return f"{who} with {_hair(look)}, in {_clothes(look)}{_extras(look)}, {moves}, and {arms}"


def _hair(look: Look) -> str:
    if look.hair == "bald":
        return "no hair"
    if look.hair in ("bob", "ponytail", "bun", "mohawk"):
        return f"a {look.hair_colour} {look.hair}"
    return f"{look.hair} {look.hair_colour} hair"


def _clothes(look: Look) -> str:
    pattern = {"band": f" with {_article(look.pattern_colour)} band", "plain": ""}.get(
        look.pattern, f" with {look.pattern_colour} {look.pattern}"
    )
    if look.bottom == "dress":
        return f"{_article(look.top_colour)} dress{pattern} and {look.shoes} shoes"
    bottom = f"{_article(look.bottom_colour) if look.bottom == 'skirt' else look.bottom_colour} {look.bottom}"
    return f"{_article(look.top_colour)} {look.top}{pattern}, {bottom} and {look.shoes} shoes"


def _article(word: str) -> str:
    return f"{'an' if word[0] in 'aeiou' else 'a'} {word}"


def _extras(look: Look) -> str:
    worn = [f"{_article(look.hat_colour)} {look.hat}"] if look.hat != "none" else []
    worn += ["glasses"] if look.glasses else []
    worn += ["a beard"] if look.beard else []
    text = f", with {' and '.join(worn)}" if worn else ""
    return text + (f", holding {_article(look.prop_colour)} {look.prop}" if look.prop != "none" else "")


def _surroundings(scene: Scene) -> str:
    """Describe place, framing, light and camera."""
    wall = {
        "plain": "The wall behind is {}",
        "panelled": "The panelled wall behind is {}",
        "brick": "The brick wall behind is {}",
        "window": "The wall behind is {} and has a window",
        "stage": "The curtain of the stage behind is {}",
        "park": "The sky over the park behind is {}",
        "tiled": "The tiled wall behind is {}",
    }[scene.wall].format(scene.main.look.wall)
    sentences = [f"{wall}, and the camera {scene.film.camera}."]
    if scene.framing == "waist up":
        sentences.append("The dancer is seen from the waist up.")
    if scene.occluder != "none":
        sentences.append(f"{_article(scene.occluder).capitalize()} stands in front.")
    if scene.film.light != "plain":
        sentences.append(f"The light is {scene.film.light}.")
    return " ".join(sentences)
