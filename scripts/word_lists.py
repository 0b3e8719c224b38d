"""Words to spell and to say: names, streets, towns, common words and one-word commands."""

from __future__ import annotations


def _split(text: str) -> tuple[str, ...]:
    return tuple(text.split())


FIRST_NAMES = _split("""
james john robert michael william david richard joseph thomas charles christopher daniel matthew anthony mark
donald steven paul andrew joshua kenneth kevin brian george edward ronald timothy jason jeffrey ryan jacob gary
nicholas eric jonathan stephen larry justin scott brandon benjamin samuel gregory frank alexander raymond patrick
jack dennis jerry tyler aaron jose henry adam douglas nathan peter zachary kyle walter harold jeremy ethan carl
keith roger gerald christian terry sean arthur austin noah lawrence jesse joe bryan billy jordan albert dylan bruce
mary patricia jennifer linda elizabeth barbara susan jessica sarah karen nancy lisa betty margaret sandra ashley
kimberly emily donna michelle carol amanda dorothy melissa deborah stephanie rebecca sharon laura cynthia kathleen
amy angela shirley anna brenda pamela emma nicole helen samantha katherine christine debra rachel carolyn janet
catherine maria heather diane ruth julie olivia joyce virginia victoria kelly lauren christina joan evelyn judith
andrea hannah megan cheryl jacqueline martha gloria teresa ann sara madison frances kathryn janice jean abigail
alice julia judy sophia grace denise amber doris marilyn danielle beverly isabella theresa diana natalie brittany
alex max sam ben tom tim jim bob bill dan ted ray leo hugo ivan igor olga nina vera zoe maya eva ida amit ravi
priya wei ming hiroshi yuki fatima omar ahmed ali hassan raj sanjay jorge luis carlos pedro juan miguel xavier
quentin quincy felix rex dexter jacques yves zelda xena
""")

LAST_NAMES = _split("""
smith johnson williams brown jones garcia miller davis rodriguez martinez hernandez lopez gonzalez wilson anderson
thomas taylor moore jackson martin lee perez thompson white harris sanchez clark ramirez lewis robinson walker
young allen king wright scott torres nguyen hill flores green adams nelson baker hall rivera campbell mitchell
carter roberts gomez phillips evans turner diaz parker cruz edwards collins reyes stewart morris morales murphy
cook rogers gutierrez ortiz morgan cooper peterson bailey reed kelly howard ramos kim cox ward richardson watson
brooks chavez wood james bennett gray mendoza ruiz hughes price alvarez castillo sanders patel myers long ross
foster jimenez powell jenkins perry russell sullivan bell coleman butler henderson barnes gonzales fisher vasquez
simmons romero jordan patterson alexander hamilton graham reynolds griffin wallace moreno west cole hayes bryant
herrera gibson ellis tran medina aguilar stevens murray ford castro marshall owens harrison fernandez mcdonald
woods washington kennedy wells vargas henry chen freeman webb tucker guzman burns crawford olson simpson porter
hunter gordon mendez silva shaw snyder mason dixon munoz hunt hicks holmes palmer wagner black robertson boyd
stone salazar fox warren mills meyer rice schmidt garza daniels ferguson nichols stephens soto weaver ryan gardner
payne grant dunn kelley spencer hawkins arnold pierce hansen peters santos hart bradley knight elliott cunningham
duncan armstrong hudson carroll lane riley andrews alvarado ray delgado berry perkins hoffman johnston matthews
zimmerman kowalski novak szymanski fitzgerald vandenberg quigley xu zhang huang yamamoto takahashi o'brien o'neill
""")

STREETS = _split("""
main oak pine maple cedar elm washington lake hill walnut spring north south east west ridge church willow park
sunset railroad jefferson center highland lincoln franklin river mill forest jackson cherry dogwood hickory
chestnut beech spruce poplar locust college school market water front broad union prospect pleasant green liberty
grove valley meadow monroe adams madison harrison wilson division state court clinton hamilton colonial heritage
linden laurel magnolia juniper sycamore aspen birch redwood orchard garden vine rose ivy holly lakeview hillside
riverside fairview summit crescent canal bridge station depot mission mulberry cypress walker grant jackson penn
warren marshall douglas taylor arlington cambridge oxford windsor york essex sheridan sherman bedford concord
lexington fulton beacon delaware ohio virginia michigan dakota king queen prince duke bishop abbey quarry zion
""")

STREET_KINDS = ("street", "avenue", "road", "drive", "lane", "court", "place", "boulevard", "way", "circle", "terrace")

PLACES = _split("""
pittsburgh philadelphia boston chicago houston phoenix dallas austin denver seattle portland detroit memphis
nashville baltimore milwaukee albuquerque tucson fresno sacramento atlanta omaha raleigh miami oakland minneapolis
tulsa cleveland wichita arlington tampa orleans honolulu anaheim cincinnati newark toledo orlando buffalo lincoln
madison durham laredo reno richmond spokane tacoma boise mobile akron eugene salem dayton savannah syracuse
hartford bridgeport paterson lansing provo york london paris berlin madrid rome vienna dublin oslo tokyo delhi
sydney toronto montreal ottawa calgary vancouver winnipeg moscow warsaw prague athens lisbon zurich geneva brussels
budapest helsinki stockholm nairobi lagos lima bogota santiago quito caracas manila jakarta bangkok singapore
pennsylvania california texas florida ohio michigan georgia virginia washington arizona massachusetts tennessee
indiana missouri maryland wisconsin colorado minnesota carolina alabama louisiana kentucky oregon oklahoma
connecticut utah iowa nevada arkansas mississippi kansas mexico nebraska idaho hawaii maine montana delaware dakota
alaska vermont wyoming england scotland ireland france germany italy spain canada india china japan brazil egypt
kenya peru cuba chile korea vietnam zambia qatar yemen iraq
""")

COMMON_WORDS = _split("""
time year people way day man thing woman life child world school state family student group country problem hand
part place case week company system program question work government number night point home water room mother area
money story fact month lot right study book eye job word business issue side kind head house service friend father
power hour game line end member law car city community name president team minute idea body information back parent
face others level office door health person art war history party result change morning reason research girl guy
moment air teacher force education foot boy age policy music market sense nation plan college interest death
experience effect use class control care field development role effort rate heart drug show leader light voice wife
police mind price report decision son view relationship town road arm difference value building action season
society tax director position player record paper space ground form event official matter center couple site project
activity star table need court oil situation cost industry figure street image phone data picture practice piece
land product doctor wall patient worker news test movie north love support technology step baby computer type
attention film tree source organization hair look window culture chance brother energy period course summer plant
opportunity term letter condition choice rule daughter south husband floor campaign material population call
economy hospital church risk fire future bank west sport board subject officer rest behavior performance fight top
goal second bed order author blood agency nature color store sound movement page race concern series language
response animal factor decade article east artist scene stock career treatment approach size dog fund media sign
thought list individual quality pressure answer resource meeting disease success cup amount ability staff character
growth loss degree attack region television box training trade deal election feeling standard bill message analysis
benefit lawyer section glass skill sister professor operation crime stage authority design sort knowledge gun
station strategy truth song example environment leg dark husband laugh guess breakfast dinner kitchen garden yellow
purple orange white black green blue red brown quick slow happy sad early late tired hungry thirsty beautiful
ugly bright cold warm hot dry wet heavy empty full strong weak young old new good bad better best worse worst never
always often sometimes usually maybe perhaps quite really very almost enough together again away down over under
between before after while because although though through without within about above across against along among
around behind below beneath beside beyond during except inside near off onto outside since toward until upon
squirrel zebra jazz quiz queen quilt fox box axe wax exit extra judge jump jacket zoo zero zipper vivid violet wave
whisper whale yacht yesterday tomorrow today tonight buy sell bring take give get make let know think say tell ask
went came saw heard felt found left kept held stood sat ran wrote read spoke broke chose drove ate drank slept woke
flew grew threw knew showed thought bought caught taught brought sold told hear see feel leave keep hold stand sit
run write speak break choose drive eat drink sleep wake fly grow throw open close push pull turn move stop start
wait walk talk listen watch play learn teach try help follow carry cross climb catch fall rise shine rain snow
""")

COMMANDS = _split("""
yes no go stop help start repeat enter erase delete clear cancel next back forward up down left right on off
okay quit exit continue begin end open close save print send call dial select insert copy paste move find search
again done undo redo wait pause play skip add remove change correct wrong login logout reset submit accept reject
more less first last record answer spell hello goodbye please thanks sorry maybe
""")

SPELLING_COMMANDS = _split("""
enter erase delete insert type select find call spell clear change add dial open copy repeat
""")

LETTER_COMMENTS = ("capital", "double", "dash", "dot", "apostrophe", "space", "slash", "period", "hyphen")

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
TEENS = ("ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen")
TENS = ("", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
ORDINALS = (
    "zeroth",
    "first",
    "second",
    "third",
    "fourth",
    "fifth",
    "sixth",
    "seventh",
    "eighth",
    "ninth",
    "tenth",
    "eleventh",
    "twelfth",
    "thirteenth",
    "fourteenth",
    "fifteenth",
    "sixteenth",
    "seventeenth",
    "eighteenth",
    "nineteenth",
)
MONTHS = (
    "january",
    "february",
    "march",
    "april",
    "may",
    "june",
    "july",
    "august",
    "september",
    "october",
    "november",
    "december",
)
WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")

# Frames for everyday sentences: {} is filled with a spelled or said name, a number, a date or an address.
NAME_FRAMES = (
    "my name is {}",
    "this is {} speaking",
    "{} is calling",
    "may i speak to {}",
    "i am {}",
    "my mother's maiden name is {}",
    "the last name is {}",
    "it was written by {}",
    "i live in {}",
    "i was born in {}",
    "we are going to {}",
    "he came from {} last year",
    "she works with {}",
)
NUMBER_FRAMES = (
    "my number is {}",
    "the answer is {}",
    "it costs {} dollars",
    "there were {} people",
    "i am {} years old",
    "turn to page {}",
    "the code is {}",
    "room {}",
    "flight {}",
    "extension {}",
    "it was about {} miles",
)
DATE_FRAMES = (
    "i was born on {}",
    "the meeting is on {}",
    "today is {}",
    "it ended on {}",
    "my birthday is {}",
    "we arrive on {}",
    "since {}",
    "until {}",
)
SPELL_FRAMES = (
    "that is spelled {}",
    "it is spelled {}",
    "spelled {}",
    "my initials are {}",
    "the letters are {}",
    "that's {}",
    "license plate {}",
    "the code is {}",
    "section {}",
    "option {}",
    "plan {}",
)
