"""Questions and remarks that need no tool, from which `benchmarks.tools_data` makes dialogues.

Many of them have numbers but nothing to calculate, or are about documents but not about the user's.
Those of the benchmark `benchmarks.tools` are others.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence

_SMALL_TALK = (
    "Hello!", "Hey.", "Good morning.", "Good afternoon!", "Good night!", "Nice to meet you.",
    "See you later.", "Thanks!", "Thank you very much.", "That was helpful.", "Ok.", "Great!",
    "Sorry!", "Yes, please.", "No, thanks.", "I am bored.", "I feel tired today.", "Let's chat.",
    "I had a bad day.", "Wish me luck.", "Who are you?", "What is your name?", "How are you today?",
    "What can you do?", "Are you a robot?", "Do you like music?",
    "How was your weekend?", "Tell me a joke.", "Say something kind.", "Which season do you like?",
    "What should I cook tonight?", "What can I do on a rainy day?", "Cheer me up.",
    "I moved to a new town.", "My team won the match!", "I am learning to dance.",
)  # fmt: skip

_CONCEPTS = (
    "a rainbow", "an echo", "electricity", "a comet", "evolution", "oxygen", "a glacier",
    "a vitamin", "an allergy", "a volcano", "photosynthesis", "an eclipse", "yeast", "a metaphor",
    "a noun", "irony", "a simile", "friendship", "an orchestra", "jazz", "the internet",
    "an algorithm", "encryption", "a search engine", "a parliament", "a strike", "recycling",
    "a hurricane", "a proverb", "chess", "the moon", "autumn", "a bicycle", "a violin",
)  # fmt: skip
_ABOUT_CONCEPTS = (
    "What is {}?", "Explain {} in simple words.", "Tell me about {}.", "Define {} briefly.",
    "What comes to your mind when you hear of {}?",
)  # fmt: skip

_PEOPLE = (
    "Marie Curie", "Isaac Newton", "Napoleon", "Charles Darwin", "Frida Kahlo", "Nelson Mandela",
    "Ada Lovelace", "Galileo", "Joan of Arc", "Beethoven", "Pythagoras", "Agatha Christie",
    "Neil Armstrong", "Cleopatra", "Albert Einstein", "Hamlet",
)  # fmt: skip
_ABOUT_PEOPLE = ("Who was {}?", "What is {} known for?", "Tell me one thing about {}.")

_COUNTRIES = (
    "France", "Japan", "Egypt", "Canada", "Kenya", "Portugal", "Greece", "India", "Peru", "Vietnam",
    "Turkey", "Italy", "Brazil", "Iceland",
)  # fmt: skip
_ABOUT_COUNTRIES = (
    "What is the capital of {}?", "Which language do people speak in {}?", "What is {} famous for?",
    "When is a good time to visit {}?",
)  # fmt: skip

_TASKS = (
    "clean a window", "tie a tie", "learn French", "fall asleep faster", "repair a tyre",
    "plant tomatoes", "save energy", "remember names", "cook rice", "paint a wall", "boil an egg",
    "get over a cold", "prepare for an interview", "get rid of ants", "calm a crying baby",
    "learn the guitar", "make pancakes", "train a puppy",
)  # fmt: skip
_ABOUT_TASKS = ("How do I {}?", "What is the best way to {}?", "Give me three tips: how to {}?")

_WHY = (
    "is the sky blue", "is the sea salty", "do onions make us cry", "do we yawn", "is snow white",
    "do birds sing", "do stars twinkle", "do dogs bark", "does bread rise", "does iron rust",
    "do we dream", "do leaves fall", "do people travel", "is laughing good for us",
)  # fmt: skip

_PAIRS = (
    ("coffee", "cocoa"), ("a frog", "a toad"), ("a novel", "a poem"), ("a comet", "a star"),
    ("jam", "honey"), ("a whale", "a shark"), ("a violin", "a guitar"), ("England", "Britain"),
)  # fmt: skip

_FORMS = (
    "a short poem", "two lines", "a limerick", "a short dialogue", "the first sentence of a novel",
    "a haiku",
)  # fmt: skip
_TOPICS = (
    "a lighthouse", "the sea", "a lost umbrella", "a dragon", "rain", "Mondays", "a train ride",
    "an old clock", "the number seven", "a forgotten letter", "a library", "spring",
)  # fmt: skip

_PHRASES = ("good night", "where is the station", "I am hungry", "happy new year", "my friend")
_LANGUAGES = ("French", "German", "Italian", "Dutch")

_WITH_NUMBERS = (
    "What happened in 1969?", "What happened in the year 1492?", "Who ruled England in 1560?",
    "In which century did Shakespeare live?", "When was the Eiffel Tower built?",
    "When did the Second World War end?", "In which year was Einstein born?", "Who wrote 1984?",
    "Tell me about Apollo 11.", "What is Route 66?", "What is a Boeing 747?",
    "What is an MP3 file?",
    "What does 24/7 mean?", "What does 3D stand for?", "What is a 4x4 car?",
    "What is celebrated on the 4th of July?", "Is 7 a lucky number?",
    "Why do some people fear the number 13?", "Write a poem of 4 lines about the number 3.",
    "Count from 1 to 5.", "Name 5 birds.", "Name two rivers in Europe.", "Give me 4 picnic ideas.",
    "List 3 uses of a spoon.", "Tell me 2 facts about bears.", "Name 6 colours.",
    "Give me 10 words that rhyme with day.", "How many strings does a violin have?",
    "How many legs does a spider have?", "How many planets are there?",
    "How many players are in a football team?", "How many letters has the alphabet?",
    "How tall is Mount Everest?", "How long is the Nile?", "How far away is the moon?",
    "How fast can a cheetah run?", "At what temperature does water boil?",
    "How long does one brush one's teeth?", "How much water should I drink a day?",
    "How much sleep does a baby need?",
    "I am 30 and want to learn to swim. Is it too late?",
    "My bus was 20 minutes late. Write one line to complain.",
    "I have 2 dogs and 1 cat. Suggest names for them.", "We are 6 people. Which game can we play?",
    "Write a toast for a 60th birthday.", "My son is 8 and afraid of the dark. What can I do?",
    "The shop opens at 9. Tell a customer politely.", "What is a 50th wedding anniversary called?",
    "Room 12 is too cold. Write one line to the hotel.", "Who won the World Cup in 1998?",
    "What is special about the year 2000?",
    "What was life like in 1900?", "Which songs are from the 1980s?", "What is Formula 1?",
    "What is a prime number?", "What is a fraction?", "What is a percentage?",
    "What is an average?",
    "What is a square root?", "What is mathematics?", "What is geometry?", "What is infinity?",
    "Who invented zero?", "What is an abacus?", "Who invented the calculator?",
    "How can I get better at mental arithmetic?", "How do I teach fractions to a child?",
    "Why do pupils learn the times tables?", "Is mathematics difficult?", "What is a sum?",
    "Why do prices end in 99?", "How can I save money?", "What is inflation?",
    "What is a mortgage?",
    "Should I tip in a restaurant?", "What does plus-size mean?", "Is a discount always good?",
    "What is the metric system?", "Why do Americans use miles?", "Who thought of the kilogram?",
    "What is Celsius named after?", "What is a leap year?", "Why has an hour 60 minutes?",
)  # fmt: skip
"""Numbers, quantities and mathematics, with nothing to calculate."""

_WRITINGS = (
    "a cover letter", "a contract for a room", "a shopping list", "a report", "an invoice",
    "a complaint", "a CV", "an agenda", "a travel diary", "a cookbook", "a rental agreement",
    "a project plan", "a handbook for staff", "an instruction manual", "a privacy policy",
    "a thank-you note", "a press release", "meeting minutes", "a last will", "a warranty",
)  # fmt: skip
_ABOUT_WRITINGS = (
    "How do I write {}?", "What belongs in {}?", "What is {} for?", "How long should {} be?",
    "Write the first line of {}.", "Give me a title for {}.",
)  # fmt: skip

_PAPERWORK = (
    "How can I keep papers in order?", "How does one take good notes?",
    "Which program opens a PDF?",
    "What is the difference between a file and a folder?", "How should I name files?",
    "Why are contracts hard to read?", "Do people still read newspapers?", "What is a handbook?",
    "Why do people keep diaries?", "What is a library for?", "What does an archive do?",
    "Who reads manuals?", "How do I cite a book?", "What is a footnote?", "What is a paragraph?",
    "Why do contracts need signatures?", "What does a lawyer do?", "What does a librarian do?",
    "What is small print?", "What is an appendix?", "What does a notary do?", "What is a database?",
    "Recommend a book about the sea.", "Which documents does one need for a passport?",
    "How does one search the web well?", "What is a bookmark?", "How do I learn from textbooks?",
    "Is a handshake a contract?", "What do insurances do?", "Why do we have rules?",
)  # fmt: skip
"""Documents as such, with nothing to look up in the user's own."""

_SENTENCES = (
    "The meeting lasted 3 hours and cost 200 dollars.", "We sold 45 bikes in May and 52 in June.",
    "Our handbook says that lunch is at noon.", "The contract ends in autumn.",
    "My notes are on the table.", "She go to school every day.", "Give me the report.",
    "The train was late and we were cold.", "He paid 12 euros for 3 tickets.",
    "The manual is too long.", "I lost the key of the cellar.", "The invoice came on 5 March.",
    "Please read the document before the visit.", "Half of the 30 guests stayed at home.",
    "The old bridge was closed for repairs.", "They doubled the price to 80.",
)  # fmt: skip
_WITH_SENTENCES = (
    "Correct this sentence: {}", "Say it in other words: {}", "Is this sentence polite? {}",
    "Make it shorter: {}", "Turn this into a question: {}", "Write it in the future tense: {}",
    "What is the mood of this sentence? {}", "Translate into French: {}",
)  # fmt: skip


def _filled(forms: Sequence[str], values: Sequence[str]) -> tuple[str, ...]:
    return tuple(form.format(value) for form, value in itertools.product(forms, values))


GROUPS: tuple[tuple[str, ...], ...] = (
    _SMALL_TALK,
    (*_filled(_ABOUT_CONCEPTS, _CONCEPTS), *_filled(_ABOUT_PEOPLE, _PEOPLE)),
    (*_filled(_ABOUT_COUNTRIES, _COUNTRIES), *_filled(("Why {}?",), _WHY)),
    (
        *_filled(_ABOUT_TASKS, _TASKS),
        *(f"How does {first} differ from {second}?" for first, second in _PAIRS),
    ),
    (
        *(f"Write {form} about {topic}." for form in _FORMS for topic in _TOPICS),
        *(f"Translate '{text}' into {name}." for text in _PHRASES for name in _LANGUAGES),
    ),
    _WITH_NUMBERS,
    (*_filled(_ABOUT_WRITINGS, _WRITINGS), *_PAPERWORK),
    _filled(_WITH_SENTENCES, _SENTENCES),
)
"""Questions and remarks, by what they are about."""


def chat_questions(chance: random.Random, count: int) -> list[str]:
    """Return different questions that need no tool, as many from each group as it has.

    Args:
        chance: draws them.
        count: how many; at most all.
    """
    shuffled = [chance.sample(group, len(group)) for group in GROUPS]
    turns = itertools.zip_longest(*shuffled)
    return [text for turn in turns for text in turn if text is not None][:count]
