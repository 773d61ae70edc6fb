"""Strings for screens, split into two worlds that share no word: one to train on, one held out for evaluation.

The split is a hash of the lower-cased word, so it needs no lists kept in step and covers invented words too. What has
no words (prices, times, codes) is split the same way as a whole.
"""

import zlib
from random import Random
from typing import Literal

Split = Literal["train", "heldout"]

_COMMON = """
about accept account activate active actual add address adjust admin agenda agree airport alarm album alert align all
allow always amount analysis angle animal answer apple apply april archive area arrange arrival arrow article artist
assign attach audio august author auto average away baby back backup badge bag baker balance band banana bank banner
bar base basic basket battery beach bean bear beef beer bell berry big bike bill bird birthday black blend block blue
bluetooth board boat body bold bonus book border bottle bottom bowl box branch brand bread break breakfast bridge
bright brown browse bubble budget build bunch burger bus butter buy cabin cable cake calendar call camera camp cancel
candy capital caption car card care carpet carrot cart cash castle cat catalog category center chain chair change
channel chapter charge chart chat cheap check cheese cherry chicken chief child chip choice choose city class classic
clean clear click client climate clip clock close cloud club coach coast coat code coffee cold collect color column
combo comedy comment common company compare compass compose concert confirm connect contact content contrast control
cookie cool copy corner corn cost cotton count country coupon course cover cream create credit crew crop crowd cruise
cup current curve custom cut cycle daily dance dark dashboard data date day deal debug decline default delay delete
deliver demo deposit depth desert design desk detail device dial diary diet digital dinner direct disable disc discard
discount dish disk display distance dock doctor document dog dollar domain done door double down download draft dragon
draw dream dress drink drive driver drop dry duck due duplicate dust duty eagle early earth easy echo edit egg eight
electric email empty enable end energy engine enjoy enter entry error estate evening event every exact exam example
exit expand expert expire explore export express extra fabric face factor fall family famous fan farm fast favorite
feature fee feed feedback field fight figure file fill film filter final finance find finger finish fire first fish
fit five fix flag flat flight floor flow flower fly focus folder follow font food foot force forest forget fork form
format forward four frame free fresh friday friend front fruit fuel full fun gallery game garage garden gas gate
general gift ginger glass global gold golf good grade grain grand grape graph grass gray green greet grid grill ground
group grow guard guest guide guitar habit hair half hall hand handle happy harbor hard hat head health heart heat
heavy height hello help hero hidden high hill history hold holiday home honey hope horse hospital host hot hotel hour
house humid ice icon idea image import inbox include index indoor info inner input insert inside install insurance
internet invite invoice iron island issue item jacket jam january jazz jeans job join journal juice july jump june
jungle junior keep key keyboard kid kind king kitchen kiwi knife label lake lamp land landing language laptop large
last late laugh launch laundry layer layout leader leaf learn leave lemon length lesson letter level library license
life lift light lime limit line link lion liquid list listen live load loan local locate lock log logo long look
lounge love low lucky luggage lunch machine magic mail main make mango manual map march margin mark market mask master
match math matrix may meal measure meat media medium meeting melon member memory menu merge message metal meter method
micro middle milk mind mini minute mirror mix mobile mode model modern monday money monitor month moon morning motion
motor mountain mouse move movie museum music mute name narrow nature near neck network never new news next nice night
nine noise none noon normal north note notice november number nurse nut object ocean october offer office offline oil
old olive one onion online open option orange orbit order organic origin outdoor output oven owner pack page paint
pair palace panel paper parcel parent park part partner party pass paste path patient pause pay payment peach pear pen
pencil pepper period person pet phone photo piano pick pie pilot pin pink pizza place plan planet plant plastic plate
play player plaza please plug plus pocket point policy pool pop popular port post potato pound powder power preset
press preview price print priority privacy private prize process product profile profit program project protect proxy
public pump purple quality quarter queen queue quick quiet quiz quota radar radio rail rain range rapid rate raw read
ready receipt recent recipe record red redo reduce refresh refund region register reject relax release remind remote
remove rename renew rent repair repeat reply report request reset resize resort restart restore result resume retry
return review reward rice ride right ring river road robot rock roll roof room root rose rotate round route router row
royal rugby rule run safe salad sale salmon salt same sample sand saturday sauce save scale scan scene schedule school
science score screen script scroll sea search season seat second secret section secure select sell send senior sensor
september series server service session set settings seven shade shadow shape share shelf shift ship shirt shoe shop
short show shower shuffle side sign signal silent silver simple single site six size skate sketch ski skin skip sky
sleep slice slide slot slow small smart smoke smooth snack snow soap soccer social sock sofa soft solar song sort
sound soup source south space spare speaker special speed spice spinach split sport spring square stable stack staff
stage stamp standard star start state station status stay steak steam steel step stereo stick stock stone stop storage
store storm story strawberry stream street strong student studio style subject submit subtitle sugar suite summary
summer sun sunday support surface survey swap sweet swim switch symbol sync system tab table tablet tag tail talk tall
tank task taste tax taxi tea teacher team teapot ten tennis terms test text thank theater theme three thunder thursday
ticket tiger time timer tiny tip title toast today toggle tomato tone tool tooth top total touch tour tower town toy
track trade traffic trail train transfer trash travel tray tree trend trial trip truck trust try tuesday tune turbo
turkey turn twin two type umbrella under undo unit unlock update upgrade upload upper urgent usage user vacuum valley
value van vanilla vault vegan vehicle verify version video view village vintage violet virtual visa visit vitamin
voice volume vote wait walk wall wallet warm warning wash waste watch water wave way weather web wedding wednesday
week weight welcome west wheat wheel white wide width wild wind window wine wing winter wire wish wolf wonder wood
wool word work world wrap wrist write yard year yellow yes yoga young zebra zero zone zoom
"""
_ONSETS = ("b", "c", "d", "f", "g", "h", "j", "k", "l", "m", "n", "p", "r", "s", "t", "v", "w", "z",
           "br", "cl", "dr", "fl", "gr", "pl", "pr", "st", "tr", "sh", "ch", "qu", "th", "sk")  # fmt: skip
_VOWELS = ("a", "e", "i", "o", "u", "ai", "ea", "oo", "ou", "y")
_CODAS = ("", "", "", "n", "r", "s", "t", "l", "m", "x", "ck", "ng", "rd", "st", "p", "d")
_CODE_LETTERS = "ABCDEFGHJKLMNPQRSTUVWXYZ0123456789"
_MAX_LENGTH = 20  # characters of a name or value


def split_of(word: str) -> Split:
    """The world a word, or a text without words, belongs to: about one in five is held out."""
    return "heldout" if zlib.crc32(word.lower().encode()) % 5 == 0 else "train"


def common_words(split: Split) -> list[str]:
    """The everyday interface words of one world, in a fixed order."""
    return [word for word in dict.fromkeys(_COMMON.split()) if split_of(word) == split]


class Phrases:
    """Draws strings of one world. Mutates only the generator given to each call."""

    def __init__(self, split: Split) -> None:
        self.split = split
        self._common = common_words(split)

    def word(self, rng: Random) -> str:
        """One lower-case word: mostly an everyday one, sometimes invented (so that reading is not guessing)."""
        if rng.random() < 0.6:
            return rng.choice(self._common)
        while True:
            syllables = (
                rng.choice(_ONSETS) + rng.choice(_VOWELS) + rng.choice(_CODAS) for _ in range(rng.choice((1, 2, 2, 3)))
            )
            word = "".join(syllables)[:9]
            if len(word) > 2 and split_of(word) == self.split:
                return word

    def name(self, rng: Random, max_words: int = 2) -> str:
        """A label such as `Night mode` or `Save Draft`: 1 to `max_words` words, cased in one of three ways."""
        words = [self.word(rng) for _ in range(rng.choice((1, 1, 2, 2, 3)[: max_words * 2 - 1]))]
        style = rng.random()
        if style < 0.55:
            words[0] = words[0].capitalize()
        elif style < 0.88:
            words = [word.capitalize() for word in words]
        elif style < 0.94:
            words = [word.upper() for word in words]
        text = " ".join(words)
        if rng.random() < 0.06:
            text += f" {rng.randint(1, 99)}"
        while len(text) > _MAX_LENGTH:  # whole words only: half a word may belong to the other world
            text = text.rsplit(" ", 1)[0]
        return text

    def value(self, rng: Random, max_length: int = _MAX_LENGTH) -> str:
        """Something a field or a card may hold, at most so long: a number, price, date, time, code, address or word."""
        makers = (self._amount, self._number, self._percent, self._time, self._date, self._address, self._code)
        while True:
            maker = rng.choice((*makers, self.name, self.name))
            text = maker(rng)
            if len(text) <= max_length and (maker in (self.name, self._address) or split_of(text) == self.split):
                return text

    def price(self, rng: Random) -> str:
        """A price such as `$4.50`."""
        while True:
            text = f"${rng.randint(1, 29)}.{rng.choice(('00', '50', '25', '75', '90', '99'))}"
            if split_of(text) == self.split:
                return text

    def noise(self, rng: Random) -> str:
        """A run of printable characters without sense, for learning letter shapes only."""
        return "".join(chr(rng.randint(33, 126)) for _ in range(rng.randint(2, 9)))

    def _amount(self, rng: Random) -> str:
        return f"${rng.randint(0, 99)}.{rng.randint(0, 99):02d}"

    def _number(self, rng: Random) -> str:
        return str(rng.randint(0, 9999))

    def _percent(self, rng: Random) -> str:
        return f"{rng.randint(0, 100)}%"

    def _time(self, rng: Random) -> str:
        return f"{rng.randint(0, 23):02d}:{rng.randint(0, 59):02d}"

    def _date(self, rng: Random) -> str:
        return f"20{rng.randint(20, 39)}-{rng.randint(1, 12):02d}-{rng.randint(1, 28):02d}"

    def _address(self, rng: Random) -> str:
        return f"{self.word(rng)}@{self.word(rng)}.{rng.choice(('com', 'org', 'net'))}"

    def _code(self, rng: Random) -> str:
        return "".join(rng.choice(_CODE_LETTERS) for _ in range(rng.randint(3, 7)))
