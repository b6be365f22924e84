"""The words of the generated tasks in natural English: names from many cultures, things, vessels, places, kinds.

They are common, and so many that no two problems have to be alike: what is learnt is the task and not its words. No
word stands in two lists, so that an answer is of one kind. Names are told apart by the pronoun that goes with them.
"""

from __future__ import annotations

WOMEN = (
    "Abena Adaeze Adele Agnes Aisha Akiko Alba Alice Alma Amara Amina Anahi Anika Anita Anouk Anya Aroha Asha Astrid "
    "Aylin Ayesha Beatriz Bianca Birgit Bridget Camila Carmen Catalina Celeste Chandra Chiara Chloe Clara Daria "
    "Deborah Deepa Diana Dina Dolores Ebele Edith Elena Elif Elisa Ella Emma Esi Esther Eva Farah Fatima Fatou Flora "
    "Frida Gabriela Giulia Grace Greta Gudrun Habiba Halima Hana Hanna Haruka Hawa Helga Hiroko Ida Ilse Imani Indira "
    "Ines Ingrid Irene Irina Isabel Jamila Jana Jelena Jia Johanna Josefa Joy Juana Julia Kaia Kalpana Karin Katya "
    "Kavya Keiko Khadija Kiri Klara Lakshmi Lara Latifa Laura Leila Lena Lidia Lila Linh Lotte Lucia Luisa Lupe Magda "
    "Mai Malia Marama Margit Maria Marta Mary Maya Meera Mei Mina Miriam Moana Mona Monique Nadia Naomi Nasrin Natalia "
    "Ngozi Nicole Nina Nisha Noor Nora Nuria Odile Olga Olivia Oyin Paloma Parvati Patience Paula Perla Pia Pilar "
    "Priya Rachel Radha Rania Rebecca Renata Rita Rosa Rukmini Ruth Sabine Sadia Sakura Salma Samira Sandra Sanna Sara "
    "Selma Shanti Shirin Signe Silvia Sofia Soraya Stella Sunita Svetlana Tamar Tanya Tara Teresa Thandi Tova Uma "
    "Ursula Valentina Vera Vesna Wambui Wanjiru Xiomara Yara Yasmin Yuki Yuna Zahra Zainab Zelda Zofia Zuri"
).split()
MEN = (
    "Aaron Abdul Abel Adam Adrian Ahmed Akira Alan Albert Alejandro Ali Alvaro Amir Anders Andre Anton Arjun Arne "
    "Arthur Arturo Ashok Axel Babak Bashir Bela Benjamin Bilal Bjorn Bogdan Boris Bruno Carlos Cesar Chen Chike Conrad "
    "Dai Daniel Darius David Dawit Declan Dev Diego Dimitri Diyar Dmitry Domingo Eduardo Edwin Elias Emil Enrique Enzo "
    "Erik Ernesto Esteban Farid Felipe Felix Femi Fergus Finn Florian Francis Fumio Gabriel George Gerardo Giorgio "
    "Goran Gustav Hakim Hamid Hans Haruto Hassan Hector Henrik Hiroshi Hugo Hussein Ibrahim Idris Igor Imran Ivan "
    "Jabari Jack Jakob Javier Jerzy Joao Jomo Jonas Jorge Josef Juan Julian Junaid Kamal Karim Karl Kenji Kevin Khalid "
    "Kofi Kojo Kurt Kwame Lars Laszlo Leo Leon Liam Lorenzo Luca Luis Lukas Magnus Malik Manuel Marek Mario Mateo "
    "Matti Max Mehmet Miguel Mikhail Milan Mohan Moses Mustafa Nabil Nikhil Nikolai Nils Noah Obi Oleg Omar Oscar "
    "Osman Otto Pablo Pavel Pedro Peter Petr Philip Pierre Piotr Rafael Rahul Rajesh Ramon Rashid Ravi Rene Ricardo "
    "Robert Rohan Roman Ruben Rui Sadiq Salim Samuel Sanjay Santiago Satoshi Sergio Sipho Simon Stefan Sven Taavi "
    "Tadeo Takeshi Tariq Tem Tendai Theo Thomas Tomas Tunde Uchenna Umar Vasily Victor Vikram Viktor Vincent Vinh "
    "Walter Wei Wiremu Yakov Yannis Yash Yusuf Zain Zoltan"
).split()

THINGS = (
    "acorn album almanac amulet anchor apron arrow atlas badge ball balloon bandage banner bead bell belt bib bill "
    "blanket blouse bolt bone bonnet book bookmark boot bottle bow bowl bracelet brick brooch broom brush bulb bun "
    "button cable cake calendar camera candle cap card carrot cassette certificate chain chalk charger cheese "
    "chessboard cigar clock cloak clothespin coat coaster coin collar comb compass cookie cork corkscrew coupon "
    "cracker crayon crown crystal cup cushion dagger dart diamond diary dice dictionary doily doll domino doorknob "
    "earring egg emerald envelope eraser fan feather file fishhook flag flashlight flute folder fork fossil funnel gem "
    "glass globe glove goblet grater guidebook hairpin hammer handbag handkerchief harmonica hat headband helmet hinge "
    "hook horseshoe hourglass icon invitation invoice jacket jersey jewel jigsaw journal keyring key kite knife knob "
    "lace ladle lamp lantern leaflet leash lens letter lighter lipstick loaf lock locket lollipop magazine magnet "
    "magnifier mallet map marble mask match medal menu microphone mirror mitten monocle mug nail napkin necklace "
    "needle newspaper notebook novel nut oar opal ornament padlock paintbrush pan pancake parcel passport pearl pebble "
    "pen pencil pendant pepper perfume photograph pillow pin pinecone pipe plate playbill plum poem pocketknife "
    "pomegranate postcard poster potato pretzel puppet purse puzzle quill quilt radio rattle razor receipt recipe "
    "remote ribbon ring robe rope rosary ruby ruler sandal sapphire saucer saw scarf scepter scroll seashell seed "
    "sequin shawl shell shirt shoe sieve skirt slipper soap sock spatula spindle sponge spool spoon stamp staple "
    "statue stencil stick sticker stocking stone straw string sundial sweater sword tablecloth tambourine tape teacup "
    "teapot telescope thermometer thimble thread ticket tie tile timer toothbrush torch towel toy trophy trowel "
    "trumpet tweezer twig umbrella vase veil vest violin wallet walnut wand watch whistle wig wrench yarn zipper"
).split()
VESSELS = (
    "backpack bag barrel basin basket bin box bucket cabinet canister carton case casket chest coffer cooler crate "
    "cupboard drum hamper hatbox jar jug kettle kit locker pail pot pouch rucksack sack safe satchel suitcase tank tin "
    "toolbox tray trunk tub urn"
).split()
LOOKS = (
    "amber azure battered beige big black blue brass bronze brown carved cedar copper cracked crimson dented dusty "
    "faded floral golden green grey heavy iron ivory large leather linen little maroon narrow new oak old orange "
    "painted pale paper pink plain plastic polished purple red round rusty scarlet shabby shiny silver small spotted "
    "square steel striped tall tartan teal turquoise velvet wicker wide wooden woollen worn yellow"
).split()
PLACES = (
    "abbey academy alley annex apartment aquarium arcade archive arena armory attic auditorium backyard bakery "
    "ballroom balcony bank barn barracks basement bathroom bazaar bedroom boathouse bookshop boutique brewery bungalow "
    "bunker butchery cabin cafe camp canteen caravan carriage casino castle cathedral cave cellar cemetery chapel "
    "church cinema citadel classroom clinic cloakroom closet clubhouse college conservatory convent corridor cottage "
    "courthouse courtyard creamery dairy darkroom den depot diner distillery dormitory embassy factory farmhouse "
    "forest forge fort foundry foyer gallery garage garden gatehouse gazebo granary grocery greenhouse grove "
    "guesthouse gym hall hallway hangar harbor hayloft henhouse hospital hostel hotel hut inn kennel kiosk kitchen "
    "laboratory larder laundry lavatory library lighthouse lobby loft lodge lounge mansion market meadow mill mine "
    "monastery mosque motel museum nursery observatory office orangery orchard outhouse palace pantry park parlor "
    "passage pavilion pharmacy pigsty playroom prison pub quarry ranch rectory refectory restaurant sauna school "
    "seminary shed shop shrine smithy spa stable stadium station storeroom study studio subway summerhouse sunroom "
    "synagogue tannery tavern temple tent theater tower townhall treehouse tunnel university valley vault vestibule "
    "vestry villa vineyard warehouse washroom waterworks windmill winery woodshed workshop yard zoo"
).split()

KINDS = {
    "animals": (
        "alligator antelope badger bear beaver beetle bison buffalo camel cat cheetah chicken cobra cow coyote crab "
        "crow deer dog dolphin donkey dove duck eagle eel elephant elk falcon ferret flamingo fox frog gazelle giraffe "
        "goat goose gorilla hamster hare hawk hedgehog heron hippo horse hyena iguana jackal jaguar kangaroo koala "
        "lamb leopard lion lizard llama lobster lynx magpie mole monkey moose mouse mule newt octopus ostrich otter "
        "owl panda panther parrot pelican penguin pig pigeon pony rabbit raccoon rat raven salmon seal shark sheep "
        "skunk sloth snail snake sparrow spider squirrel stork swan tiger toad turkey turtle vulture walrus wasp "
        "weasel whale wolf yak zebra"
    ).split(),
    "fruits": (
        "apple apricot avocado banana blackberry blueberry cherry coconut cranberry date fig gooseberry grape "
        "grapefruit guava kiwi kumquat lemon lime lychee mango melon mulberry nectarine papaya peach pear persimmon "
        "pineapple quince raspberry strawberry tangerine watermelon"
    ).split(),
    "instruments": (
        "accordion bagpipe banjo bassoon bugle cello clarinet cymbal didgeridoo dulcimer fiddle gong guitar harp "
        "harpsichord horn keyboard lute lyre mandolin marimba oboe organ piano recorder saxophone sitar triangle "
        "trombone tuba ukulele vibraphone viola xylophone zither"
    ).split(),
    "tools": (
        "anvil axe chisel clamp crowbar drill gauge hacksaw hatchet hoe ladder lathe lever mattock nutcracker pickaxe "
        "pitchfork plane plow pulley rake sander scythe shovel sickle sledgehammer spade spanner vise wheelbarrow "
        "winch"
    ).split(),
    "vehicles": (
        "airplane ambulance barge bicycle bulldozer canoe cart chariot ferryboat forklift glider gondola helicopter "
        "hovercraft jeep kayak limousine locomotive moped motorcycle raft rickshaw rocket sailboat scooter skateboard "
        "sled sleigh speedboat submarine tanker taxi tractor train tram tricycle truck van wagon yacht"
    ).split(),
    "pieces of furniture": (
        "armchair bed bench bookcase bunk carpet chair cot couch cradle curtain desk dresser footstool hammock "
        "headboard mattress nightstand ottoman recliner shelf sideboard sofa stool table wardrobe"
    ).split(),
    "trees and flowers": (
        "acacia ash aspen azalea beech begonia birch buttercup carnation chrysanthemum cypress daffodil dahlia daisy "
        "elm fir geranium hawthorn hibiscus hyacinth iris jasmine larch lavender lilac lily lotus magnolia maple "
        "marigold orchid palm pansy peony petunia pine poplar poppy primrose redwood rose snowdrop spruce sunflower "
        "tulip violet willow yew zinnia"
    ).split(),
}
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")

_SOUNDED_LIKE_YOU = {"ukulele", "university"}


def with_article(word: str) -> str:
    """Return the word behind the indefinite article that its first sound asks for."""
    return f"{'an' if word[0] in 'aeiou' and word not in _SOUNDED_LIKE_YOU else 'a'} {word}"
