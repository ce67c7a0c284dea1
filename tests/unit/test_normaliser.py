"""What evades is read, and what is ordinary is left alone, in many languages."""

from __future__ import annotations

import gzip
import json
import unicodedata
from collections import Counter
from pathlib import Path

import pytest

from qwarden.guard.normaliser import normalised

DATA = Path(__file__).parents[3] / "shared" / "data"

EVADING = [
    ("a zero-width space", "I will ki\u200bll you", "I will kill you"),
    ("a soft hyphen", "ki\u00adll", "kill"),
    ("a word joiner between digits", "call 555\u20601234", "call 5551234"),
    ("a joiner that no script needs", "k\u200di\u200cl\u200dl", "kill"),
    ("a mark of direction in a word", "ki\u200ell", "kill"),
    ("invisible tags", "ki\U000e0061\U000e0062ll", "kill"),
    ("a selector in a word", "ki\ufe0fll", "kill"),
    ("a zero-width space between Han", "杀\u200b人", "杀人"),
    ("a zero-width space in Hebrew", "להר\u200bוג", "להרוג"),
    ("a zero-width space in Hangul", "살\u200b인", "살인"),
    ("spaced letters", "I will k i l l you", "I will kill you"),
    ("spaced words", "k i l l  y o u r s e l f", "kill yourself"),
    ("dotted small letters", "k.i.l.l him", "kill him"),
    ("dotted words", "k.i.l.l y.o.u", "kill you"),
    ("hyphens", "k-i-l-l", "kill"),
    ("stars", "k*i*l*l", "kill"),
    ("a wide separator", "k . i . l . l", "kill"),
    ("no-break spaces", "k\u00a0i\u00a0l\u00a0l", "kill"),
    ("ideographic spaces", "ｋ\u3000ｉ\u3000ｌ\u3000ｌ", "kill"),
    ("a letter before the run", "x k.i.l.l", "x kill"),
    ("spaced Russian", "у б и т ь", "убить"),
    ("full width", "ｋｉｌｌ ｈｉｍ", "kill him"),
    ("mathematical", "𝐤𝐢𝐥𝐥 𝓱𝓲𝓶", "kill him"),
    ("circled", "ⓚⓘⓛⓛ", "kill"),
    ("squared", "🅺🅸🅻🅻", "kill"),
    ("small capitals", "ᴋɪʟʟ", "kill"),
    ("raised", "ᵏⁱˡˡ", "kill"),
    ("short styled words beside long ones", "𝐤𝐢𝐥𝐥 𝐦𝐞 𝐢", "kill me i"),
    ("Cyrillic in a Latin word", "kіll yоursеlf", "kill yourself"),
    ("Greek in a Latin word", "kιll yοu", "kill yοu"),
    ("Latin in a Cyrillic word", "нaркотики", "наркотики"),
    ("only look-alikes in Russian", "вот тебе хep", "вот тебе хер"),
    ("struck through", "k\u0336i\u0336l\u0336l\u0336", "kill"),
    ("a stack of marks", "k\u0337\u0322\u031bi\u0337\u0327\u031bll", "kill"),
    ("many marks", "k" + "\u0301\u0316" * 400 + "ill", "kill"),
    ("spaced and styled", "𝐤 𝐢 𝐥 𝐥", "kill"),
    ("spaced and of two scripts", "k і l l", "kill"),
    ("hidden and of two scripts", "k\u200bі\u200bll", "kill"),
    ("marks and two scripts", "k\u0336і\u0336l\u0336l\u0336", "kill"),
    ("rare marks and two scripts", "k\u20d2і\u20d2l\u20d2l\u20d2", "kill"),
]


@pytest.mark.parametrize(
    ("text", "read"), [case[1:] for case in EVADING], ids=[case[0] for case in EVADING]
)
def test_what_evades_is_not_read(text: str, read: str) -> None:
    assert normalised(text) == read


ORDINARY = {
    "English": [
        "The café's naïve owner said: “I — a U.S. citizen — can't.”",
        "I am a J. R. R. Tolkien fan; the U.S.S.R. and N.A.T.O. are initialisms, e.g. a.k.a. too.",
        "Options: a b c d, A) B) C) D), i, j, k, l and x y z w.",
        "Answers: B D A C A. Blood: A B AB O. Notes: C D E F G A B C. DNA: G A T T A C A.",
        "Tick-tack-toe: X O X O; M F F M; ha ha; S M T W T F S; vowels: a e i o u.",
        "The 1ˢᵗ of May, Mˡˡᵉ Dupont, xⁿ + yⁿ, H₂O, ½, №5, ™ and ﬁne ligatures.",
        "Let 𝑥 ∈ ℝ and 𝐀𝐱 = 𝐛; μm, kΩ, ΔT, λx, π r², α-helix, TNFα, NFκB and ρgh: ordinary.",
        "Soft\u200b breaks, \ufeffa mark at the start, https://example.org/\u200bpath",
        "word\u200b \u200bedges, and a \u2060joiner beside a blank",
        "| a | b | c |\n|---|---|---|\n- - - - * * * _ _ _ . . . .",
        "def f(x): return a[i] * b[j] - c.d.e + x.y.z",
    ],
    "emoji": [
        "👩\u200d👩\u200d👧\u200d👦 ❤\ufe0f 👍🏽 🇩🇪🇫🇷 1\ufe0f\u20e32\ufe0f\u20e3",
        "🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f wins 🏳\ufe0f\u200d🌈!",
        "🅰️ and 🅱️, Ⓐ, ⓒ 2020, ⓐ ⓑ ⓒ",
    ],
    "German": ["Die Straßenbahn fährt z. B. u. a. nach Köln; u. s. w., d. h. über die Brücke."],
    "French": ["À l’été, où est-ce qu’il y a l’œuvre ? Ça coûte 5 € ; s’il vous plaît."],
    "Spanish": ["¿Cómo estás? El niño comió piña en EE. UU. y a él le gustó."],
    "Polish": ["Żółw i łoś: zażółć gęślą jaźń, a w m.in. Łodzi i o tym."],
    "Turkish": ["Iğdır'ın İstanbul'a ışığı; kırk, şöyle, çağ, ılık süt."],
    "Vietnamese": ["Người Việt nói tiếng Việt; khuỷu tay, nghiêng, tưởng tượng, ướt."],
    "Lithuanian": ["Lietuvių kalba: ė̃, ùž, i̇́ kirčiai rašomi žodynuose."],
    "Yoruba": ["Ẹ̀kọ́ yorùbá: ọ̀pọ̀lọpọ̀ ènìyàn, ọ̀rọ̀, ọmọ ẹ̀kọ́ gíga."],
    "Russian": [
        "Сегодня хорошая погода, и мы с ним идём в парк. За́мок или замо́к?",
        "IT-шник отправил SMSку через Wi-Fi в СССР; т. е. и т. д., VIP-клиент, а я и у о.",
        "Ответы: а б в г д",
    ],
    "Ukrainian": ["Її їжак ґречно з'їв яблуко; об’єкт і Київ."],
    "Serbian": ["Љубазни фењерџија чађавог лица; Ђоковић je." ],
    "Greek": ["Ο Ιπποκράτης ἐν ἀρχῇ ἦν ὁ λόγος, ᾧ ᾳ· και το iPhone του."],
    "Hebrew": ["שָׁלוֹם עוֹלָם, ה\u200fC++\u200f הוא שפה; צה״ל."],
    "Arabic": ["مَرْحَبًا بِالعَالَم، ه\u200d هذا \u200fاختبار\u200f."],
    "Persian": ["می\u200cخواهم کتاب\u200cها را بخوانم؛ خانه\u200cای."],
    "Urdu": ["میں اردو بولتا ہوں، اور آپ؟"],
    "Hindi": ["क्\u200dष और क्\u200cष; नमस्ते दुनिया, हिन्दी में।"],
    "Bengali": ["র\u200d্যাব এবং বাংলা ভাষা।"],
    "Tamil": ["தமிழ் மொழி க்\u200cஷ அழகானது."],
    "Malayalam": ["മലയാളം അവന്\u200d പറഞ്ഞു."],
    "Sinhala": ["ශ්\u200dරී ලංකාව ලස්සනයි."],
    "Thai": ["ภาษา\u200bไทย\u200bไม่มี\u200bช่องว่าง"],
    "Khmer": ["ភាសា\u200bខ្មែរ\u200bស្រស់ស្អាត"],
    "Burmese": ["မြန်မာ\u200bဘာသာ\u200bစကား"],
    "Chinese": ["今天天气很好，ＡＢＣ公司的ＰＣ和ＩＰ地址。Ｈｅｌｌｏ，我们去公园散步，再去吃饭。"],
    "Japanese": [
        "Ｗｅｂサイトと\u200bＮＨＫの\u200bＴシャツ、葛\U000e0100城、ｶﾀｶﾅ、カ\u3099。",
        "ｅ－ｍａｉｌはこちらまでお願いいたします。",
    ],
    "Korean": ["안녕하세요, 한국어 문장입니다. ㄱ ㄴ ㄷ ㄹ ⓐ ⓑ ⓒ ⓓ."],
    "Mongolian": ["ᠮᠣᠩᠭᠣᠯ\u180e ᠬᠡᠯᠡ\u180b"],
    "Armenian": ["Բարեւ աշխարհ, ինչպե՞ս եք։"],
    "Navajo": ["Diné bizaad: shą́ą́ʼ, tʼáá, łį́į́ʼ."],
}  # fmt: skip


@pytest.mark.parametrize("language", ORDINARY)
@pytest.mark.parametrize("form", ["NFC", "NFD", "as written"])
def test_ordinary_text_is_judged_twice(language: str, form: str) -> None:
    for text in ORDINARY[language]:
        written = text
        if form != "as written":
            written = unicodedata.normalize(form, text)  # type: ignore[arg-type]
        assert normalised(written) == written


def test_half_a_surrogate_pair_raises() -> None:
    assert normalised("a b \ud800 c d") == "a b \ud800 c d"


@pytest.mark.shared
def test_real_conversations_are_judged_twice() -> None:
    """Of 29 languages; not of the sets that collect attacks."""
    seen, twice = Counter[str](), Counter[str]()
    with gzip.open(DATA / "traffic.jsonl.gz", "rt", encoding="utf-8") as file:
        for line in file:
            row = json.loads(line)
            for message in row["messages"]:
                seen[row["lang"]] += 1
                twice[row["lang"]] += normalised(message["content"]) != message["content"]
    assert len(seen) >= 12
    assert twice.total() <= seen.total() / 1000
    assert all(twice[language] <= max(1, seen[language] / 200) for language in seen)
