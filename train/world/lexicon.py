"""Words for things: how each is usually called, what else it is called, what kinds there are.

`build` writes things.tsv, the table that everything else reads, from concepts.tsv, from WordNet and
from the tables here. A word is kept only if it is common enough to be one piece of CLIP's byte-pair
vocabulary; a two-word name needs two such words.
"""

from __future__ import annotations

import gzip
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

from train.world import wordnet
from train.world.concepts import CONCEPTS, Concept
from train.world.wordnet import WordNet

THINGS = Path(__file__).with_name("things.tsv")
MOST_WORDS = 16  # of one kind for a thing
COMMON_TAG = 4  # a tag that more things carry says too little

# Unicode's names as people say them.
RENAMED: Mapping[str, str] = {
    "automobile": "car",
    "baby chick": "chick",
    "honeybee": "bee",
    "lady beetle": "ladybug",
    "hamburger": "burger",
    "doughnut": "donut",
    "ear of corn": "corn cob",
    "hot beverage": "cup of coffee",
    "high voltage": "lightning bolt",
    "wrapped gift": "gift",
    "deciduous tree": "tree",
    "evergreen tree": "pine tree",
    "couch and lamp": "couch",
    "billed cap": "cap",
    "locked": "padlock",
    "mobile phone": "phone",
    "closed book": "red book",
    "books": "pile of books",
    "ewe": "sheep",
    "red apple": "apple",
    "beverage box": "juice box",
    "bottle with popping cork": "bottle",
    "bowl with spoon": "bowl",
    "cheese wedge": "cheese",
    "clinking beer mugs": "two beer mugs",
    "clinking glasses": "champagne glasses",
    "cocktail glass": "cocktail",
    "cooked rice": "bowl of rice",
    "cooking": "frying pan",
    "cup with straw": "cup with a straw",
    "cut of meat": "steak",
    "curry rice": "curry",
    "custard": "pudding",
    "fork and knife": "knife and fork",
    "fork and knife with plate": "plate",
    "green salad": "salad",
    "hot pepper": "chili pepper",
    "ice": "ice cube",
    "ice cream": "bowl of ice cream",
    "soft ice cream": "ice cream cone",
    "kiwi fruit": "kiwi",
    "leafy green": "lettuce",
    "meat on bone": "meat on a bone",
    "pot of food": "pot",
    "poultry leg": "chicken leg",
    "roasted sweet potato": "sweet potato",
    "shallow pan of food": "pan",
    "shortcake": "piece of cake",
    "birthday cake": "cake",
    "steaming bowl": "bowl of noodles",
    "teacup without handle": "cup of tea",
    "tumbler glass": "glass of whiskey",
    "canned food": "can",
    "amphora": "vase",
    "grapes": "bunch of grapes",
    "cherries": "pair of cherries",
    "T-Rex": "dinosaur",
    "sauropod": "brontosaurus",
    "blowfish": "pufferfish",
    "four leaf clover": "clover",
    "spiral shell": "shell",
    "paw prints": "paw print",
    "front-facing baby chick": "front-facing chick",
    "two-hump camel": "two-humped camel",
    "fallen leaf": "autumn leaf",
    "leafless tree": "bare tree",
    "bouquet": "bouquet of flowers",
    "blossom": "yellow flower",
    "game die": "dice",
    "pool 8 ball": "billiard ball",
    "flying disc": "frisbee",
    "running shirt": "tank top",
    "fishing pole": "fishing rod",
    "bullseye": "dartboard",
    "framed picture": "picture frame",
    "performing arts": "theater masks",
    "video game": "game controller",
    "tennis": "tennis racket",
    "ping pong": "ping pong paddle",
    "bowling": "bowling pins",
    "martial arts uniform": "karate uniform",
    "badminton": "badminton racket",
    "thread": "spool of thread",
    "yarn": "ball of yarn",
    "adhesive bandage": "band-aid",
    "bell with slash": "muted bell",
    "balance scale": "scale",
    "briefs": "underpants",
    "carpentry saw": "saw",
    "computer disk": "minidisc",
    "crossed swords": "pair of swords",
    "desktop computer": "computer",
    "dollar banknote": "dollar bill",
    "electric plug": "plug",
    "folding hand fan": "hand fan",
    "gem stone": "diamond gem",
    "headphone": "pair of headphones",
    "glasses": "pair of glasses",
    "sunglasses": "pair of sunglasses",
    "gloves": "pair of gloves",
    "socks": "pair of socks",
    "scissors": "pair of scissors",
    "jeans": "pair of jeans",
    "shorts": "pair of shorts",
    "ballet shoes": "pair of ballet shoes",
    "goggles": "pair of goggles",
    "skis": "pair of skis",
    "chopsticks": "pair of chopsticks",
    "high-heeled shoe": "high heel",
    "magnifying glass tilted left": "magnifying glass",
    "man’s shoe": "shoe",
    "rescue worker’s helmet": "rescue helmet",
    "military helmet": "helmet",
    "musical keyboard": "piano keyboard",
    "necktie": "tie",
    "one-piece swimsuit": "swimsuit",
    "postal horn": "horn",
    "roll of paper": "toilet paper roll",
    "running shoe": "sneaker",
    "shopping bags": "shopping bag",
    "tear-off calendar": "calendar",
    "calendar": "date calendar",
    "thong sandal": "flip-flop",
    "wastebasket": "trash can",
    "woman’s boot": "boot",
    "woman’s clothes": "blouse",
    "woman’s hat": "sun hat",
    "woman’s sandal": "sandal",
    "videocassette": "video tape",
    "level slider": "slider",
    "optical disk": "cd",
    "satellite antenna": "satellite dish",
    "money bag": "bag of money",
    "umbrella": "open umbrella",
    "umbrella with rain drops": "umbrella",
    "articulated lorry": "semi truck",
    "delivery truck": "truck",
    "sport utility vehicle": "suv",
    "racing car": "race car",
    "auto rickshaw": "rickshaw",
    "motor boat": "motorboat",
    "passenger ship": "cruise ship",
    "police car light": "siren",
    "vertical traffic light": "traffic light",
    "fuel pump": "gas pump",
    "flying saucer": "ufo",
    "star": "gold star",
    "sun with face": "sun with a face",
    "hourglass not done": "running hourglass",
    "hourglass done": "hourglass",
    "ringed planet": "planet",
    "globe showing Americas": "globe",
    "luggage": "suitcase",
    "kick scooter": "scooter",
    "motor scooter": "moped",
    "droplet": "water drop",
    "water wave": "wave",
    "cloud with rain": "rain cloud",
    "cloud with snow": "snow cloud",
    "cloud with lightning": "thundercloud",
    "sun behind cloud": "sun behind a cloud",
    "snow-capped mountain": "snowy mountain",
    "derelict house": "abandoned house",
    "classical building": "temple",
    "house with garden": "house with a garden",
    "wood": "log",
    "full moon face": "full moon with a face",
    "new moon face": "new moon with a face",
    "pile of poo": "poop",
    "red heart": "heart",
    "smiling face": "smiley",
    "smiling face with sunglasses": "cool smiley",
    "alien monster": "space invader",
    "clown face": "clown",
    "people hugging": "hug",
    "flexed biceps": "flexed arm",
    "person with crown": "royal person",
    "speech balloon": "speech bubble",
    "thought balloon": "thought bubble",
    "collision": "explosion",
    "ZZZ": "zzz",
    "dizzy": "dizzy star",
    "spiral notepad": "notepad",
    "building construction": "construction site",
    "cityscape": "city",
    "station": "train station",
    "metro": "metro train",
    "locomotive": "steam train",
    "crescent moon": "moon",
    "Santa Claus": "santa claus",
    "Christmas tree": "christmas tree",
    "Statue of Liberty": "statue of liberty",
    "Japanese castle": "japanese castle",
    "Tokyo tower": "tokyo tower",
    "cat with tears of joy": "laughing cat",
    "smiling cat with heart-eyes": "cat with heart eyes",
    "identification card": "id card",
    "reminder ribbon": "awareness ribbon",
    "manual wheelchair": "wheelchair",
    "french fries": "box of french fries",
    "beans": "pile of beans",
    "peanuts": "pile of peanuts",
    "blueberries": "bunch of blueberries",
    "pancakes": "stack of pancakes",
    "lungs": "pair of lungs",
    "eyes": "pair of eyes",
    "chains": "pair of chains",
    "maracas": "pair of maracas",
    "film frames": "film strip",
    "fireworks": "firework",
    "prayer beads": "string of prayer beads",
    "control knobs": "set of control knobs",
    "bubbles": "group of bubbles",
    "page facing up": "page",
    "page with curl": "curled page",
    "index pointing up": "pointing finger",
    "red paper lantern": "paper lantern",
}

# Classes of COCO and CIFAR-100 that have a drawing, and what people ask for beside them: animals
# and food but these, and of all other things only these.
LEFT_OUT = """
    empty nest; guide dog; service dog; microbe; pig nose; leaf fluttering in wind;
    nest with eggs; rosette; sheaf of rice; shamrock; wilted flower; wing;
    front-facing baby chick; hatching chick; two-hump camel; water buffalo; ox; bug; lotus;
    hyacinth; herb; worm; ram; oden; dango; fish cake with swirl; flatbread; moon cake;
    mate; fondue; tamale; rice cracker; root vegetable; pouring liquid; falafel; sake;
    stuffed flatbread; bento box; ginger root; brown mushroom; clinking beer mugs;
    clinking glasses; salt; jar; shaved ice; melon; pea pod; chestnut; fork and knife;
    tumbler glass; cooked rice; curry rice; orangutan; moose; black cat; phoenix; dodo;
    cricket; badger; bison; boar; cockroach; mammoth; skunk; chipmunk; oyster; coral;
    feather
"""
CHOSEN = """
    Christmas tree; american football; artist palette; balloon; baseball; basketball;
    boxing glove; bullseye; crystal ball; fireworks; fishing pole; flying disc;
    framed picture; game die; jack-o-lantern; kite; magic wand; puzzle piece; pool 8 ball;
    ribbon; running shirt; skis; sled; soccer ball; sports medal; teddy bear; tennis;
    thread; trophy; video game; volleyball; wrapped gift; yarn; yo-yo; ice skate; joystick;
    nesting dolls; party popper; alien; clown face; ghost; pile of poo; red heart;
    broken heart; robot; skull; smiling face; smiling face with sunglasses; crying face;
    angry face; collision; speech balloon; alien monster; hole; heart with arrow; snowman;
    accordion; axe; backpack; basket; bathtub; battery; bed; bell; billed cap; bomb;
    bow and arrow; briefcase; broom; bucket; camera; candle; carpentry saw; chair;
    closed book; coffin; coat; coin; computer mouse; couch and lamp; crown; dagger;
    desktop computer; door; dress; drum; electric plug; envelope; fire extinguisher;
    flashlight; floppy disk; gear; gem stone; glasses; gloves; graduation cap; guitar;
    hammer; handbag; headphone; high-heeled shoe; jeans; key; keyboard; ladder; laptop;
    light bulb; lipstick; locked; magnet; magnifying glass tilted left; man’s shoe;
    microphone; microscope; mirror; mobile phone; money bag; musical note; necktie;
    newspaper; open book; paintbrush; paperclip; pencil; pill; printer; pushpin; radio;
    razor; ring; running shoe; saxophone; scarf; scissors; screwdriver; scroll; shield;
    shopping cart; shopping bags; shorts; shovel; shower; soap; socks; sponge; sunglasses;
    syringe; t-shirt; tear-off calendar; telephone; telescope; television; toilet; toolbox;
    toothbrush; top hat; trumpet; violin; wastebasket; window; woman’s boot; woman’s hat;
    wrench; package; books; bikini; test tube; stethoscope; harp; banjo; dollar banknote;
    credit card; hook; crossed swords; Santa Claus; astronaut; baby; boy; brain; bone;
    child; detective; ear; elf; eye; fairy; farmer; firefighter; foot; genie; girl; mage;
    mouth; ninja; nose; police officer; princess; prince; superhero; tooth; vampire; zombie;
    thumbs up; raised hand; flexed biceps; snowboarder; cook; old man; old woman;
    person surfing; airplane; alarm clock; ambulance; anchor; articulated lorry; automobile;
    bicycle; bridge at night; brick; bullet train; bus; camping; canoe; castle; church;
    circus tent; cityscape; closed umbrella; cloud; cloud with rain; cloud with lightning;
    comet; compass; crescent moon; delivery truck; desert island; droplet; factory;
    ferris wheel; fire; fire engine; flying saucer; fountain; fuel pump; full moon;
    globe showing Americas; helicopter; high voltage; hospital; hourglass done; house; hut;
    kick scooter; locomotive; luggage; motor boat; motor scooter; motorcycle; mountain;
    snow-capped mountain; office building; parachute; passenger ship; pickup truck;
    police car; racing car; railway track; rainbow; ring buoy; ringed planet; rock; rocket;
    roller skate; sailboat; satellite; school; ship; skateboard; snowflake; star; stop sign;
    stopwatch; sun; sun with face; sun behind cloud; taxi; tent; thermometer; tornado;
    tractor; train; tram; umbrella with rain drops; vertical traffic light; volcano; watch;
    water wave; wheel; wood; sport utility vehicle; minibus; motorway; playground slide;
    manual wheelchair; mosque; stadium
"""

# Words that WordNet does not have for a thing, or not in its most used sense.
ALSO: Mapping[str, str] = {
    "car": "automobile, auto, red car",
    "motorcycle": "motorbike",
    "moped": "vespa, scooter",
    "airplane": "plane, aeroplane, jet, airliner",
    "cat face": "cat, kitten, kitty",
    "dog face": "dog, puppy, pup",
    "cow face": "cow",
    "horse face": "horse, pony",
    "mouse face": "mouse",
    "pig face": "pig, piglet",
    "rabbit face": "rabbit, bunny",
    "tiger face": "tiger",
    "monkey face": "monkey, chimpanzee",
    "dragon face": "dragon",
    "cat": "kitten, kitty",
    "dog": "puppy, pup, hound, doggy",
    "rabbit": "bunny, hare",
    "mouse": "little mouse",
    "rat": "shrew",
    "bear": "brown bear, grizzly, teddy",
    "panda": "panda bear",
    "sheep": "lamb",
    "cow": "cattle",
    "deer": "stag, reindeer",
    "chick": "baby chicken",
    "duck": "duckling",
    "bird": "songbird, sparrow",
    "chipmunk": "squirrel",
    "dinosaur": "t-rex, tyrannosaurus",
    "brontosaurus": "long-necked dinosaur, diplodocus",
    "fish": "trout, carp",
    "tropical fish": "aquarium fish, angelfish, clownfish",
    "butterfly": "moth",
    "beetle": "scarab",
    "ant": "insect",
    "bee": "bumblebee, wasp, honeybee",
    "ladybug": "ladybird",
    "turtle": "tortoise",
    "crocodile": "alligator",
    "seal": "sea lion",
    "frog": "toad",
    "hedgehog": "porcupine",
    "hippopotamus": "hippo",
    "rhinoceros": "rhino",
    "swan": "white swan",
    "tree": "oak, oak tree, forest",
    "pine tree": "pine, fir, spruce, evergreen",
    "palm tree": "palm",
    "maple leaf": "red leaf",
    "clover": "four-leaf clover, shamrock",
    "hibiscus": "red flower, poppy, orchid",
    "sunflower": "flower",
    "tulip": "pink tulip, flower",
    "rose": "red rose, flower",
    "yellow flower": "flower, daisy",
    "cherry blossom": "pink flower, blossom, flower",
    "bouquet of flowers": "bouquet, flowers",
    "potted plant": "house plant, plant in a pot, plant",
    "seedling": "sprout, plant",
    "mushroom": "toadstool, red mushroom",
    "tangerine": "orange, mandarin, clementine",
    "apple": "red apple",
    "green apple": "apple",
    "bunch of grapes": "grapes, grape",
    "pair of cherries": "cherry, cherries",
    "watermelon": "slice of watermelon",
    "burger": "hamburger, cheeseburger",
    "pizza": "slice of pizza, pizza slice",
    "donut": "doughnut",
    "box of french fries": "fries, french fries, chips",
    "ice cream cone": "ice cream, soft serve, gelato",
    "bowl of ice cream": "ice cream, sundae",
    "cake": "birthday cake",
    "piece of cake": "slice of cake, shortcake, cake",
    "cup of coffee": "coffee, hot drink, mug, cup, espresso, cappuccino",
    "cup of tea": "tea, green tea, cup",
    "glass of milk": "milk",
    "wine glass": "glass of wine, wine, red wine",
    "beer mug": "beer, pint of beer, mug of beer, mug",
    "bottle": "champagne, bottle of champagne, wine bottle",
    "cocktail": "martini",
    "tropical drink": "juice, orange juice",
    "bowl": "bowl with a spoon",
    "plate": "dinner plate, dish",
    "frying pan": "fried egg, skillet",
    "pan": "paella",
    "bowl of noodles": "ramen, noodles, noodle soup, soup",
    "corn cob": "corn, ear of corn, maize",
    "eggplant": "aubergine",
    "bell pepper": "sweet pepper, pepper",
    "chili pepper": "chilli, hot pepper, chili",
    "lettuce": "cabbage",
    "stack of pancakes": "pancake, pancakes",
    "chicken leg": "drumstick, fried chicken",
    "spaghetti": "pasta, plate of spaghetti",
    "croissant": "pastry",
    "baguette bread": "baguette",
    "bread": "loaf of bread, loaf, toast",
    "popcorn": "box of popcorn",
    "takeout box": "chinese takeout",
    "teddy bear": "teddy, stuffed bear, plush bear",
    "gift": "present, gift box, wrapped present",
    "soccer ball": "football, ball",
    "frisbee": "flying disc",
    "dartboard": "target, bullseye",
    "dice": "die",
    "christmas tree": "xmas tree",
    "jack-o-lantern": "halloween pumpkin, pumpkin, carved pumpkin",
    "picture frame": "painting, framed picture, picture in a frame",
    "game controller": "gamepad, controller",
    "tennis racket": "racket, tennis ball",
    "ball of yarn": "yarn, wool, ball of wool",
    "spool of thread": "thread",
    "tank top": "running shirt",
    "trophy": "cup, golden cup, gold trophy",
    "poop": "poo, pile of poo, turd",
    "heart": "red heart, love heart",
    "smiley": "smiley face, smiling face, happy face, emoji",
    "cool smiley": "smiley with sunglasses, cool face",
    "lightning bolt": "lightning, flash, thunderbolt, bolt of lightning",
    "explosion": "bang",
    "ufo": "flying saucer, spaceship, alien ship",
    "ghost": "spook",
    "skull": "death head",
    "alien": "extraterrestrial, martian",
    "space invader": "alien monster, pixel monster",
    "robot": "android, robot head",
    "couch": "sofa, settee",
    "padlock": "lock",
    "phone": "smartphone, cell phone, mobile phone, cellphone, iphone",
    "telephone": "phone, rotary phone",
    "computer": "pc, desktop computer, monitor, screen",
    "television": "tv, tv set",
    "laptop": "notebook computer",
    "computer mouse": "mouse",
    "red book": "book, closed book",
    "open book": "book",
    "pile of books": "books, stack of books",
    "alarm clock": "clock",
    "watch": "wristwatch",
    "trash can": "bin, garbage can, waste bin",
    "pair of glasses": "glasses, spectacles, eyeglasses",
    "pair of sunglasses": "sunglasses, shades",
    "pair of headphones": "headphones",
    "pair of scissors": "scissors",
    "pair of jeans": "jeans, pants, trousers",
    "pair of shorts": "shorts",
    "pair of gloves": "gloves, glove",
    "pair of socks": "socks, sock",
    "pair of skis": "skis, ski",
    "pair of swords": "swords, sword, crossed swords",
    "pair of chopsticks": "chopsticks",
    "sneaker": "running shoe, trainer, sports shoe",
    "high heel": "high-heeled shoe, red shoe",
    "t-shirt": "tee shirt, shirt, tee",
    "tie": "necktie",
    "cap": "baseball cap",
    "diamond gem": "gem, jewel, diamond gemstone",
    "magnifying glass": "loupe",
    "band-aid": "plaster, bandage",
    "dollar bill": "dollar, banknote, money, cash",
    "bag of money": "money bag, sack of money",
    "coin": "gold coin",
    "envelope": "letter",
    "plug": "power plug",
    "saw": "handsaw",
    "lightbulb": "bulb",
    "light bulb": "lightbulb, bulb, lamp",
    "shopping cart": "trolley",
    "toilet": "loo",
    "bathtub": "bath, tub",
    "crown": "golden crown, gold crown",
    "ring": "diamond ring",
    "umbrella": "brolly, umbrella in the rain",
    "closed umbrella": "umbrella",
    "truck": "lorry, van, delivery van",
    "semi truck": "big truck, truck, trailer truck, lorry",
    "suv": "jeep, off-roader",
    "race car": "formula 1 car, racing car",
    "police car": "cop car",
    "fire engine": "fire truck",
    "taxi": "cab, yellow cab",
    "tram": "streetcar, trolley",
    "train": "subway train",
    "steam train": "locomotive, steam engine, train",
    "bicycle": "bike, push bike",
    "scooter": "kick scooter",
    "suitcase": "luggage, travel bag",
    "ship": "vessel",
    "cruise ship": "ocean liner",
    "motorboat": "boat, speedboat",
    "sailboat": "sailing boat, boat, yacht, sailing ship",
    "canoe": "rowing boat, kayak",
    "rocket": "spaceship, rocket ship, spacecraft",
    "gas pump": "petrol pump, fuel pump",
    "planet": "saturn, ringed planet",
    "globe": "earth, planet earth, world",
    "moon": "crescent moon, half moon",
    "full moon": "moon",
    "gold star": "yellow star, star sticker",
    "rain cloud": "rain, raincloud",
    "thundercloud": "storm, storm cloud, thunderstorm",
    "sun": "sunshine",
    "sun with a face": "sun, smiling sun",
    "sun behind a cloud": "partly cloudy",
    "water drop": "droplet, drop of water, raindrop",
    "wave": "sea, ocean wave, ocean",
    "fire": "flame, flames, campfire",
    "tornado": "twister, whirlwind",
    "snowman": "snow man",
    "snowy mountain": "mountain, snow-capped mountain",
    "city": "cityscape, skyline, skyscrapers",
    "office building": "skyscraper, tower block, building",
    "house": "home, cottage",
    "hut": "shack, cabin",
    "castle": "fortress, palace",
    "tent": "camping tent",
    "log": "wood, timber",
    "desert island": "island, tropical island, beach",
    "wheel": "tyre, tire",
    "traffic light": "stoplight, traffic lights",
    "santa claus": "santa, father christmas",
    "mage": "wizard, sorcerer, witch, magician",
    "police officer": "policeman, cop, policewoman",
    "firefighter": "fireman",
    "cook": "chef",
    "old man": "grandpa, grandfather",
    "old woman": "grandma, grandmother",
    "person surfing": "surfer, surfboard",
    "child": "kid",
    "baby": "infant",
    "superhero": "superman",
    "thumbs up": "like, thumb up",
    "flexed arm": "biceps, muscle, strong arm",
    "raised hand": "hand, palm",
    "shell": "seashell",
    "snake": "serpent, cobra",
    "monkey": "chimpanzee, ape",
    "whale": "blue whale",
    "kangaroo": "wallaby",
    "lizard": "gecko, iguana",
    "poodle": "poodle dog",
    "parrot": "macaw",
    "unicorn": "unicorn head",
    "polar bear": "ice bear",
    "llama": "alpaca",
    "shark": "great white",
    "orca": "killer whale",
    "raccoon": "racoon",
    "dolphin": "porpoise",
    "pufferfish": "blowfish",
    "shrimp": "prawn",
    "vase": "amphora, urn, greek vase",
    "can": "tin can, canned food, tin",
    "sandwich": "toastie",
    "hot dog": "hotdog, frankfurter",
    "sweet potato": "yam",
    "steak": "cut of meat",
    "meat on a bone": "meat, ham",
    "egg": "boiled egg",
    "salad": "green salad",
    "chocolate bar": "chocolate",
    "candy": "sweet, sweets, bonbon",
    "lollipop": "lolly",
    "juice box": "carton of juice",
    "cup with a straw": "soft drink, soda, cola",
    "bubble tea": "boba tea, milk tea",
    "autumn leaf": "fallen leaf, brown leaf, leaf",
    "paw print": "paw prints, paw",
    "piano keyboard": "piano",
    "microphone": "mic",
    "paper lantern": "red lantern, lantern",
    "floppy disk": "diskette",
    "pushpin": "thumbtack, drawing pin",
    "axe": "ax, hatchet",
    "flashlight": "torch",
    "screwdriver": "screw driver",
    "wrench": "spanner",
    "shovel": "spade",
    "broom": "broomstick",
    "dress": "gown, frock",
    "coat": "jacket, winter coat",
    "sun hat": "hat, straw hat",
    "top hat": "hat, black hat",
    "boot": "boots, high boot",
    "shoe": "dress shoe, leather shoe",
    "shopping bag": "shopping bags",
    "handbag": "purse, ladies' bag",
    "backpack": "rucksack, school bag, schoolbag",
    "graduation cap": "mortarboard",
    "door": "doorway",
    "mirror": "looking glass",
    "bed": "single bed",
    "chair": "seat, stool",
    "candle": "lit candle",
    "bomb": "cartoon bomb",
    "calendar": "tear-off calendar",
    "newspaper": "paper",
    "package": "parcel, box, cardboard box",
    "stopwatch": "timer",
    "hourglass": "sand timer, egg timer",
    "musical note": "music, note",
    "railway track": "rails, train tracks",
    "playground slide": "slide",
    "ring buoy": "life ring, lifebuoy, life preserver",
    "helicopter": "chopper",
    "fairy": "pixie",
    "broken heart": "heartbreak",
    "heart with arrow": "cupid's heart",
    "speech bubble": "speech balloon",
    "hole": "black hole",
}

PARTS: Mapping[str, tuple[int, ...]] = {
    "animals & nature": (wordnet.ANIMAL, wordnet.PLANT),
    "food & drink": (wordnet.FOOD, wordnet.PLANT, wordnet.ARTIFACT),
    "travel & places": (wordnet.ARTIFACT, wordnet.OBJECT, wordnet.PHENOMENON),
    "objects": (wordnet.ARTIFACT, wordnet.OBJECT),
    "activities": (wordnet.ARTIFACT, wordnet.PLANT),
    "people": (wordnet.PERSON, wordnet.BODY),
    "smileys": (wordnet.ARTIFACT,),
}
# Endings that make a plural in another way than by rule; fish stays fish.
IRREGULAR: Mapping[str, str] = {
    "mouse": "mice", "goose": "geese", "foot": "feet", "tooth": "teeth", "child": "children",
    "man": "men", "woman": "women", "person": "people", "ox": "oxen", "leaf": "leaves",
    "loaf": "loaves", "knife": "knives", "wolf": "wolves", "elf": "elves", "calf": "calves",
    "scarf": "scarves", "shelf": "shelves", "cactus": "cacti", "dice": "dice", "fish": "fish",
    "sheep": "sheep", "deer": "deer", "shrimp": "shrimp", "squid": "squid", "bison": "bison",
    "sushi": "sushi", "bread": "breads", "up": "up", "potato": "potatoes", "tomato": "tomatoes",
    "mango": "mangoes", "volcano": "volcanoes", "tornado": "tornadoes", "hero": "heroes",
}  # fmt: skip
# Words behind which a name goes on without changing.
JOINTS = "of|with|behind|in|on|a|holding|pointing|tilted|without|gesturing|getting"


def plural(name: str) -> str:
    """Return the plural of `name`: of the word before `of`, `with`, `in`, … if there is one."""
    found = re.match(rf"(.+?)( (?:{JOINTS}) .*|$)", name)
    assert found is not None
    head, joint = found.groups()
    *before, word = head.split(" ")
    return " ".join([*before, _plural_word(word)]) + joint


def _plural_word(word: str) -> str:
    for ending, changed in IRREGULAR.items():
        if word == ending or (len(ending) > 3 and word.endswith(ending)):
            return word.removesuffix(ending) + changed
    if word.endswith(("glasses", "shoes", "ies", "pants", "jeans", "shorts", "scissors")):
        return word
    if re.search(r"(s|x|z|ch|sh)$", word):
        return word + "es"
    if re.search(r"[^aeiou]y$", word):
        return word[:-1] + "ies"
    return word + "s"


def common_words(merges: Path) -> frozenset[str]:
    """Return the whole words of CLIP's byte-pair vocabulary (bpe_simple_vocab_16e6.txt.gz)."""
    lines = gzip.decompress(merges.read_bytes()).decode().splitlines()[1 : 49152 - 256 - 2 + 1]
    pieces = ("".join(line.split()) for line in lines)
    ends = (piece.removesuffix("</w>") for piece in pieces if piece.endswith("</w>"))
    return frozenset(word for word in ends if word.isalpha() and len(word) > 2)


def build(merges: Path, out: Path = THINGS) -> Path:
    """Write things.tsv. Needs WordNet in the cache and CLIP's merges, to know common words."""
    nouns, common = WordNet(), common_words(merges)
    concepts = [concept for concept in CONCEPTS if concept.category != "people-variant"]
    names = [name_of(concept) for concept in concepts]
    tags = Counter(tag for concept in concepts for tag in set(concept.tags))
    chosen, left_out = _listed(CHOSEN), _listed(LEFT_OUT)
    lines = ["codepoint\tname\tplural\tcategory\tfirst\talso\tkinds\ttags"]
    for concept, name in zip(concepts, names, strict=True):
        by_category = concept.category in ("animals & nature", "food & drink")
        first = concept.name in chosen or (by_category and concept.name not in left_out)
        taken = {name, *names}
        also = _kept(ALSO.get(name, "").split(", "), set())
        same, kinds = _words_of(nouns, concept, name)
        also = list(dict.fromkeys([*also, *_kept(_common(same, common), taken)]))[:MOST_WORDS]
        kinds = _kept(_common(kinds, common), {*taken, *also})[:MOST_WORDS]
        loose = [tag for tag in concept.tags if tags[tag] < COMMON_TAG and tag in nouns.offsets]
        loose = _kept(_common(loose, common), {*taken, *also, *kinds})[:MOST_WORDS]
        columns = ("|".join(words) for words in (also, kinds, loose))
        row = (concept.codepoint, name, plural(name), concept.category, str(int(first)), *columns)
        lines.append("\t".join(row))
    out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return out


def name_of(concept: Concept) -> str:
    """Return how people call a thing."""
    return RENAMED.get(concept.name, concept.name).replace("’", "'").replace(": ", " with ").lower()


def _listed(text: str) -> set[str]:
    return {name.strip() for name in text.replace("\n", " ").split(";")}


def _words_of(nouns: WordNet, concept: Concept, name: str) -> tuple[list[str], list[str]]:
    """Return WordNet's other words for a thing, and its words for kinds of it."""
    parts = PARTS[concept.category]
    spoken = name.removesuffix(" face").removeprefix("pair of ").removeprefix("pile of ")
    offset = nouns.first(spoken, parts)
    if offset is None:
        return [], []
    kinds = [
        word
        for below in nouns.below(offset)
        for word in nouns.senses[below].words
        if nouns.offsets.get(word.lower(), (0,))[0] == below  # not a rare meaning of the word
    ]
    return list(nouns.senses[offset].words), kinds


def _common(words: Iterable[str], common: frozenset[str]) -> list[str]:
    return [word for word in words if all(part in common for part in word.split(" "))]


def _kept(words: Iterable[str], taken: set[str]) -> list[str]:
    return [word for word in dict.fromkeys(words) if word and word not in taken]
