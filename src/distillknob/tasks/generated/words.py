"""The words that the embedded tasks speak with. Their number gives the tokenizers a vocabulary with a tail."""

from __future__ import annotations

PEOPLE = (
    "Ada Amir Anna Aron Bela Bruno Carla Cem Clara Dana David Dora Elif Emil Erik Eva Farid Felix Fiona Gita Greta "
    "Hana Hugo Ida Igor Ines Ivan Jana Jonas Judith Karim Kira Lara Leo Lina Luca Maya Mila Milan Nina Noah Nora Olga "
    "Omar Oscar Paul Petra Priya Rafael Rosa Sami Sara Sofia Tariq Theo Tomas Vera Viktor Yara Zoe"
).split()

COUNTRY_OF = {
    "Lima": "Peru",
    "Cusco": "Peru",
    "Cairo": "Egypt",
    "Luxor": "Egypt",
    "Kyoto": "Japan",
    "Osaka": "Japan",
    "Oslo": "Norway",
    "Bergen": "Norway",
    "Nairobi": "Kenya",
    "Mombasa": "Kenya",
    "Porto": "Portugal",
    "Lisbon": "Portugal",
    "Quito": "Ecuador",
    "Cuenca": "Ecuador",
    "Hanoi": "Vietnam",
    "Hue": "Vietnam",
    "Accra": "Ghana",
    "Kumasi": "Ghana",
    "Turin": "Italy",
    "Naples": "Italy",
}

WORKPLACE_OF = {
    "baker": "bakery",
    "teacher": "school",
    "nurse": "hospital",
    "farmer": "farm",
    "judge": "court",
    "actor": "theatre",
    "pilot": "airport",
    "miner": "mine",
    "monk": "abbey",
    "banker": "bank",
    "chemist": "laboratory",
    "librarian": "library",
    "waiter": "restaurant",
    "sailor": "harbour",
    "printer": "press",
    "gardener": "park",
}

CATEGORIES = {
    "animals": (
        "fox owl bee cat wolf bear deer hare goat crow swan frog toad seal crab moth lynx mole otter eagle goose horse "
        "mouse sheep snail tiger whale zebra camel spider donkey rabbit salmon turtle lizard beetle"
    ).split(),
    "fruits": (
        "apple pear plum fig lemon lime melon mango peach grape cherry orange papaya banana quince apricot coconut "
        "guava raisin currant"
    ).split(),
    "tools": (
        "hammer saw drill axe file spade rake hoe chisel wrench pliers ladder shovel needle sickle anvil clamp lever "
        "pulley scissors"
    ).split(),
    "clothes": (
        "coat hat scarf glove sock shoe boot shirt skirt dress belt cap vest apron jacket sweater sandal slipper robe "
        "trousers"
    ).split(),
    "instruments": (
        "drum flute harp horn lute cello viola piano organ banjo guitar violin trumpet bassoon oboe fiddle zither gong "
        "tuba whistle"
    ).split(),
}

THINGS = (
    "lamp river table chair window door bridge tower garden castle forest mountain valley island harbour road wall "
    "roof floor kitchen mirror candle basket bottle bucket carpet clock cradle cup curtain desk drawer fence fountain "
    "gate hill hut jar kettle key lake ladder lantern letter map market meadow mill nest oven pillow plate pond pot "
    "rope sail shelf ship spoon stove stone street temple tent tree tunnel vase wagon well wheel barrel bench boat "
    "book box brick broom brush cave cellar chest chimney cliff cottage"
).split()

ADJECTIVES = (
    "old new red blue green white black grey small large tall short round flat thin thick heavy light warm cold dry "
    "wet clean dirty quiet loud soft hard smooth rough sharp blunt bright dark shiny dull empty full open broken cheap "
    "rare strange plain pretty ugly gentle wild proud shy calm brave clever lazy hungry sleepy"
).split()

PLACES = ("near", "behind", "under", "above", "beside")
NUMBERS = {2: "two", 3: "three", 4: "four", 5: "five"}
