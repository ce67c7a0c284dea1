"""Short texts as people type them, ten in each of 27 languages, and texts in no language.

Written for this project; by them a language detector is chosen and held to what it did.
"""

from __future__ import annotations

TEXTS: dict[str, str] = {
    "ar": """أين أقرب صيدلية من هنا؟
شكرا جزيلا على مساعدتك
لا أفهم ما تقصده
متى يبدأ الفيلم الليلة؟
أنت لا تعرف شيئا عن كرة القدم
كيف أطبخ الأرز بدون أن يلتصق؟
سأتصل بك غدا صباحا
هذا أسوأ مطعم زرته في حياتي
اكتب لي قصيدة عن البحر
توقف عن إزعاجي""",
    "bn": """কাছের ওষুধের দোকান কোথায়?
আপনার সাহায্যের জন্য অনেক ধন্যবাদ
তুমি কী বলছ বুঝতে পারছি না
আজ রাতে সিনেমা কখন শুরু হবে?
তুমি ফুটবল সম্পর্কে কিছুই জানো না
ভাত কীভাবে রান্না করব?
কাল সকালে ফোন করব
এত খারাপ খাবার আগে খাইনি
সমুদ্র নিয়ে একটা কবিতা লেখো
আমাকে আর বিরক্ত কোরো না""",
    "cs": """Kde je tady nejbližší lékárna?
Moc děkuji za pomoc
Nerozumím, co tím myslíš
V kolik začíná ten film dnes večer?
O fotbale nevíš vůbec nic
Jak uvařím rýži, aby se nelepila?
Zavolám ti zítra ráno
Nejhorší restaurace, jakou jsem zažil
Napiš mi básničku o moři
Přestaň mě otravovat""",
    "de": """Wo ist hier die nächste Apotheke?
Vielen Dank für deine Hilfe
Ich verstehe nicht, was du meinst
Wann fängt der Film heute Abend an?
Du hast keine Ahnung von Fußball
Wie koche ich Reis, ohne dass er klebt?
Ich rufe dich morgen früh an
Das schlechteste Restaurant meines Lebens
Schreib mir ein Gedicht über das Meer
Hör auf, mich zu nerven""",
    "el": """Πού είναι το πιο κοντινό φαρμακείο;
Ευχαριστώ πολύ για τη βοήθεια
Δεν καταλαβαίνω τι εννοείς
Πότε αρχίζει η ταινία απόψε;
Δεν ξέρεις τίποτα από ποδόσφαιρο
Πώς μαγειρεύω ρύζι χωρίς να κολλάει;
Θα σε πάρω τηλέφωνο αύριο
Το χειρότερο εστιατόριο της ζωής μου
Γράψε μου ένα ποίημα για τη θάλασσα
Σταμάτα να με ενοχλείς""",
    "en": """Where is the nearest pharmacy?
Thanks a lot for your help
I don't get what you mean
When does the film start tonight?
You know nothing about football
How do I cook rice so it doesn't stick?
I'll call you tomorrow morning
worst restaurant I have ever been to
Write me a poem about the sea
stop bothering me""",
    "es": """¿Dónde está la farmacia más cercana?
Muchas gracias por tu ayuda
No entiendo lo que quieres decir
¿A qué hora empieza la película?
No tienes ni idea de fútbol
¿Cómo cocino arroz sin que se pegue?
Te llamo mañana por la mañana
el peor restaurante de mi vida
Escríbeme un poema sobre el mar
deja de molestarme""",
    "fa": """نزدیک‌ترین داروخانه کجاست؟
از کمک شما خیلی ممنونم
نمی‌فهمم چه می‌گویی
فیلم امشب چه ساعتی شروع می‌شود؟
تو هیچ چیزی از فوتبال نمی‌دانی
چطور برنج بپزم که نچسبد؟
فردا صبح به تو زنگ می‌زنم
این بدترین رستورانی بود که رفته‌ام
یک شعر درباره دریا برایم بنویس
دیگر مزاحم من نشو""",
    "fi": """Missä on lähin apteekki?
Kiitos paljon avustasi
En ymmärrä mitä tarkoitat
Milloin elokuva alkaa tänään?
Et tiedä jalkapallosta yhtään mitään
Miten keitän riisiä niin ettei se tartu?
Soitan sinulle huomenna aamulla
Elämäni huonoin ravintola
Kirjoita minulle runo merestä
Lakkaa häiritsemästä minua""",
    "fr": """Où est la pharmacie la plus proche ?
Merci beaucoup pour ton aide
Je ne comprends pas ce que tu veux dire
À quelle heure commence le film ?
Tu n'y connais rien au foot
Comment cuire du riz sans qu'il colle ?
Je t'appelle demain matin
le pire restaurant de ma vie
Écris-moi un poème sur la mer
arrête de m'embêter""",
    "he": """איפה בית המרקחת הקרוב?
תודה רבה על העזרה
אני לא מבין למה אתה מתכוון
מתי מתחיל הסרט הערב?
אתה לא יודע כלום על כדורגל
איך מבשלים אורז בלי שיידבק?
אתקשר אליך מחר בבוקר
המסעדה הכי גרועה שהייתי בה
כתוב לי שיר על הים
תפסיק להציק לי""",
    "hi": """सबसे पास की दवा की दुकान कहाँ है?
आपकी मदद के लिए बहुत धन्यवाद
मुझे समझ नहीं आया तुम क्या कह रहे हो
आज रात फिल्म कब शुरू होगी?
तुम्हें फुटबॉल के बारे में कुछ नहीं पता
चावल कैसे पकाऊँ कि चिपके नहीं?
मैं कल सुबह फोन करूँगा
इतना खराब खाना कभी नहीं खाया
समुद्र पर एक कविता लिखो
मुझे परेशान मत करो""",
    "hu": """Hol van a legközelebbi gyógyszertár?
Nagyon köszönöm a segítséget
Nem értem, mire gondolsz
Mikor kezdődik ma este a film?
Semmit sem tudsz a fociról
Hogyan főzzek rizst, hogy ne ragadjon?
Holnap reggel felhívlak
Életem legrosszabb étterme
Írj nekem egy verset a tengerről
Ne zavarj már engem""",
    "id": """Di mana apotek terdekat?
Terima kasih banyak atas bantuannya
Saya tidak mengerti maksudmu
Jam berapa filmnya mulai nanti malam?
Kamu tidak tahu apa-apa soal sepak bola
Bagaimana cara memasak nasi supaya tidak lengket?
Besok pagi aku telepon kamu
Restoran paling buruk yang pernah saya datangi
Tuliskan saya puisi tentang laut
Jangan ganggu aku lagi""",
    "it": """Dov'è la farmacia più vicina?
Grazie mille per il tuo aiuto
Non capisco cosa vuoi dire
A che ora comincia il film stasera?
Non sai niente di calcio
Come cuocio il riso senza che si attacchi?
Ti chiamo domani mattina
il peggior ristorante della mia vita
Scrivimi una poesia sul mare
smettila di darmi fastidio""",
    "ja": """一番近い薬局はどこですか？
手伝ってくれてありがとう
何を言っているのか分からない
今夜の映画は何時に始まりますか？
お前はサッカーのことを何も知らない
ご飯をうまく炊くにはどうすればいい？
明日の朝電話するね
今までで最悪のレストランだった
海についての詩を書いて
もう邪魔しないで""",
    "ko": """가장 가까운 약국이 어디예요?
도와주셔서 정말 감사합니다
무슨 말인지 모르겠어
오늘 밤 영화 몇 시에 시작해?
너는 축구에 대해 아무것도 몰라
밥이 눌어붙지 않게 하려면 어떻게 해?
내일 아침에 전화할게
내 인생 최악의 식당이었다
바다에 대한 시를 써 줘
그만 좀 괴롭혀""",
    "nl": """Waar is de dichtstbijzijnde apotheek?
Heel erg bedankt voor je hulp
Ik begrijp niet wat je bedoelt
Hoe laat begint de film vanavond?
Jij weet helemaal niets van voetbal
Hoe kook ik rijst zonder dat het plakt?
Ik bel je morgenochtend
slechtste restaurant waar ik ooit was
Schrijf een gedicht over de zee
hou op met mij lastig te vallen""",
    "pl": """Gdzie jest najbliższa apteka?
Bardzo dziękuję za pomoc
Nie rozumiem, co masz na myśli
O której zaczyna się dziś film?
Nic nie wiesz o piłce nożnej
Jak ugotować ryż, żeby się nie kleił?
Zadzwonię do ciebie jutro rano
najgorsza restauracja w moim życiu
Napisz mi wiersz o morzu
przestań mnie męczyć""",
    "pt": """Onde fica a farmácia mais próxima?
Muito obrigado pela sua ajuda
Não entendi o que você quer dizer
Que horas começa o filme hoje?
Você não sabe nada de futebol
Como cozinho arroz sem grudar?
Te ligo amanhã de manhã
o pior restaurante da minha vida
Escreva um poema sobre o mar
para de me encher o saco""",
    "ru": """Где здесь ближайшая аптека?
Большое спасибо за помощь
Не понимаю, что ты имеешь в виду
Во сколько сегодня начинается фильм?
Ты ничего не знаешь о футболе
Как сварить рис, чтобы он не слипся?
Я позвоню тебе завтра утром
худший ресторан в моей жизни
Напиши мне стихотворение о море
хватит ко мне приставать""",
    "sv": """Var ligger närmaste apotek?
Tack så mycket för hjälpen
Jag förstår inte vad du menar
När börjar filmen i kväll?
Du kan ingenting om fotboll
Hur kokar jag ris så att det inte fastnar?
Jag ringer dig i morgon bitti
sämsta restaurangen jag varit på
Skriv en dikt om havet
sluta störa mig hela tiden""",
    "th": """ร้านขายยาที่ใกล้ที่สุดอยู่ที่ไหน
ขอบคุณมากที่ช่วย
ไม่เข้าใจว่าคุณหมายถึงอะไร
หนังเริ่มกี่โมงคืนนี้
คุณไม่รู้เรื่องฟุตบอลเลย
หุงข้าวยังไงไม่ให้ติดหม้อ
พรุ่งนี้เช้าจะโทรหา
ร้านอาหารที่แย่ที่สุดในชีวิต
เขียนกลอนเกี่ยวกับทะเลให้หน่อย
เลิกยุ่งกับฉันสักที""",
    "tr": """En yakın eczane nerede?
Yardımın için çok teşekkür ederim
Ne demek istediğini anlamıyorum
Bu akşam film kaçta başlıyor?
Futboldan hiç anlamıyorsun
Pilavı yapışmadan nasıl pişiririm?
Yarın sabah seni ararım
hayatımda gittiğim en kötü lokanta
Bana deniz hakkında bir şiir yaz
beni rahatsız etmeyi bırak""",
    "uk": """Де тут найближча аптека?
Дуже дякую за допомогу
Не розумію, що ти маєш на увазі
О котрій сьогодні починається фільм?
Ти нічого не знаєш про футбол
Як зварити рис, щоб він не злипся?
Я зателефоную тобі завтра вранці
найгірший ресторан у моєму житті
Напиши мені вірш про море
годі до мене чіплятися""",
    "vi": """Nhà thuốc gần nhất ở đâu?
Cảm ơn bạn đã giúp đỡ
Tôi không hiểu ý bạn là gì
Tối nay phim chiếu lúc mấy giờ?
Bạn chẳng biết gì về bóng đá cả
Nấu cơm thế nào để không bị dính?
Sáng mai tôi sẽ gọi cho bạn
nhà hàng tệ nhất tôi từng đến
Viết cho tôi một bài thơ về biển
đừng làm phiền tôi nữa""",
    "zh": """最近的药店在哪里？
非常感谢你的帮助
我不明白你的意思
今晚电影几点开始？
你根本不懂足球
怎么煮饭才不会粘锅？
我明天早上给你打电话
这是我去过最差的餐厅
给我写一首关于大海的诗
别再烦我了""",
}
"""By ISO 639-1 tag, a text a line."""

NO_LANGUAGE = (
    "",
    "   \n",
    "12345",
    "3.14 + 2.72 = 5.86",
    ":-)",
    "???!!!",
    "😂😂😂",
    "👍🏽",
    "…",
    "https://example.com/a?b=1",
    "someone@example.com",
    "@user #1",
    "+49 30 1234567",
)
"""In no language at all."""


def lines() -> list[tuple[str, str]]:
    """Every text with its tag."""
    return [(tag, line) for tag, block in TEXTS.items() for line in block.splitlines()]
