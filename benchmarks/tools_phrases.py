"""The phrases from which `benchmarks.tools_data` makes questions for tools, passages and answers.

Those of the benchmark `benchmarks.tools` are others.
"""

from __future__ import annotations

import random

_THINGS = ("apples", "tickets", "books", "bricks", "boxes", "eggs", "pages", "chairs", "lamps")
_NAMES = ("Ada", "Ben", "Cleo", "Dan", "Eva", "Finn", "Gita", "Hugo")

FACTS = (
    ("the notice period", "The notice period is {number} weeks.",
     "The notice period is {number} weeks."),
    ("the warranty of the heater", "The heater has a warranty of {number} months.",
     "The warranty of the heater is {number} months."),
    ("parking", "Guests may park behind the house for {number} hours.",
     "Guests may park behind the house for {number} hours."),
    ("the travel policy", "Trips of more than {number} days need the consent of {name}.",
     "Trips of more than {number} days need the consent of {name}."),
    ("the budget for 2025", "For 2025 we plan with {number} million.",
     "The budget for 2025 is {number} million."),
    ("holiday pay", "Holiday pay comes with the wages on day {day} of June.",
     "Holiday pay comes on {day} June."),
    ("the supplier from Leeds", "Our supplier in Leeds is run by {name}.",
     "The supplier from Leeds is run by {name}."),
    ("backups", "Backups are made every {number} hours.",
     "Backups are made every {number} hours."),
    ("the meeting of 3 May", "On 3 May {name} presented the new plan.",
     "At the meeting of 3 May {name} presented the new plan."),
    ("the cleaning rota", "{name} cleans the stairs in week {number}.",
     "In week {number} {name} cleans the stairs."),
    ("the router", "To reset the router, press its button for {number} seconds.",
     "Press the button of the router for {number} seconds."),
    ("the deposit for the flat", "The deposit is {number} hundred euros.",
     "The deposit is {number} hundred euros."),
    ("the cat's tablets", "The cat gets its tablets on day {day} of each month.",
     "The cat gets its tablets on day {day} of each month."),
    ("plum cake", "Bake the plum cake for {number} minutes.",
     "The plum cake bakes for {number} minutes."),
    ("the roof repair", "{name} repairs the roof on {day} October.",
     "{name} repairs the roof on {day} October."),
    ("the exam dates", "The first exam is on {day} July.", "The first exam is on {day} July."),
    ("the tax form", "The tax form is due on {day} May.", "The tax form is due on {day} May."),
    ("the train to Basel", "The train to Basel leaves from platform {number}.",
     "The train to Basel leaves from platform {number}."),
    ("the project plan", "Phase two of the project takes {number} weeks.",
     "Phase two takes {number} weeks."),
    ("the delivery terms", "Goods are delivered within {number} days.",
     "Goods are delivered within {number} days."),
    ("who signed the lease", "The lease was signed by {name}.", "{name} signed the lease."),
    ("the wifi", "The wifi reaches {number} metres into the yard.",
     "The wifi reaches {number} metres."),
    ("the alarm system", "The alarm system is looked after by {name}.",
     "{name} looks after the alarm system."),
    ("visitors", "Visitors sign in with {name} at the door.", "Visitors sign in with {name}."),
    ("the printer", "The printer is replaced after {number} thousand pages.",
     "The printer is replaced after {number} thousand pages."),
    ("the choir", "The choir meets in room {number}.", "The choir meets in room {number}."),
    ("the gym membership", "The membership of the gym runs for {number} months.",
     "It runs for {number} months."),
    ("the sofa we ordered", "The sofa is delivered on {day} November.",
     "It is delivered on {day} November."),
    ("data protection", "{name} is responsible for data protection.",
     "{name} is responsible for data protection."),
    ("late payment", "Whoever pays late pays {number} euros more.",
     "Late payment costs {number} euros more."),
    ("sick leave", "Whoever is ill calls {name} before nine.", "Call {name} before nine."),
    ("the tent", "The tent sleeps {number} people.", "It sleeps {number} people."),
    ("the tomatoes", "Water the tomatoes every {number} hours.",
     "They are watered every {number} hours."),
    ("our password rules", "A password has at least {number} characters.",
     "It has at least {number} characters."),
    ("the lift", "The lift carries {number} hundred kilograms.",
     "It carries {number} hundred kilograms."),
    ("the inventory", "The inventory is taken on {day} January.", "It is taken on {day} January."),
)  # fmt: skip
"""Topics, a passage about each, and the answer."""

DOCUMENT_PATTERNS = (
    "What do my papers tell about {}?",
    "Look in my documents for {}.",
    "What does the contract lay down on {}?",
    "Find {} in my archive.",
    "Is there anything about {} in my documents?",
    "What about {}, according to our handbook?",
    "Search my documents: {}",
    "Where did I write about {}?",
    "I wrote something down about {}. What was it?",
    "Have a look at my notes: {}",
    "What is recorded about {}?",
    "I need to know what our rules say on {}.",
    "Please check the PDF I added: {}?",
    "Can you see in my records what there is on {}?",
    "My notes mention {}. Tell me more.",
    "Which page of the handbook deals with {}?",
    "From my files: {}?",
    "Give me the passage on {} from the contract.",
    "Do I have a document about {}?",
    "Remind me what my file on {} contains.",
    "Go through my papers. Anything on {}?",
    "What do we know from our records about {}?",
    "Look {} up, please, it is in the folder.",
    "There must be a page on {} in the archive.",
    "My handbook has a part on {}. What is in it?",
    "In which of my notes is {}?",
    "Tell me what I saved about {}.",
)


def _number(chance: random.Random) -> str:
    kind = chance.random()
    if kind < 0.5:
        return str(chance.randint(2, 999))
    if kind < 0.65:
        return str(chance.randint(1000, 99999))
    if kind < 0.75:
        return f"{chance.randint(1000, 99999):,}"
    return f"{chance.randint(1, 400)}.{chance.randint(1, 99):02}"


def sum_question(chance: random.Random) -> tuple[str, str, str]:
    """Return a question, the expression that answers it, and the answer's wording or nothing."""
    a, b = _number(chance), _number(chance)
    c, d = str(chance.randint(2, 40)), str(chance.randint(2, 40))
    name, thing = chance.choice(_NAMES), chance.choice(_THINGS)
    percent = chance.choice((5, 8, 12, 15, 17, 19, 20, 25, 30, 35, 40, 60, 75))
    options = (
        (f"What is {a} plus {b}?", f"{a} + {b}", ""),
        (f"Add {a} and {b}.", f"{a} + {b}", ""),
        (f"{a}+{b}", f"{a} + {b}", ""),
        (f"Give me the total of {a}, {b} and {c}.", f"{a} + {b} + {c}", "The total is {}."),
        (f"Subtract {b} from {a}.", f"{a} - {b}", ""),
        (f"What is {a} minus {b}?", f"{a} - {b}", ""),
        (f"By how much is {a} larger than {b}?", f"{a} - {b}", "By {}."),
        (f"{a} without {c}?", f"{a} - {c}", ""),
        (f"Compute {a} * {b}", f"{a} * {b}", ""),
        (f"What is {a} times {c}?", f"{a} * {c}", ""),
        (f"Multiply {a} by {b}.", f"{a} * {b}", ""),
        (f"{a} x {c} = ?", f"{a} * {c}", ""),
        (f"What is {c} multiplied with itself?", f"{c} ^ 2", ""),
        (f"What is {c} to the power of 3?", f"{c} ^ 3", ""),
        (f"Divide {a} by {c}.", f"{a} / {c}", ""),
        (f"What is {a} / {c}?", f"{a} / {c}", ""),
        (f"Write {c}/{d} with decimals.", f"{c} / {d}", ""),
        (f"How often does {c} go into {a}?", f"{a} / {c}", "{} times."),
        (f"What is {percent}% of {a}?", f"{percent}% of {a}", ""),
        (f"How much is {percent} percent of {a}?", f"{percent}% of {a}", ""),
        (f"The bill is {a} and I tip {percent}%. How much is the tip?", f"{percent}% of {a}",
         "The tip is {}."),
        (f"What is the square root of {c}?", f"sqrt({c})", ""),
        (f"What is ({a} + {b}) * {c}?", f"({a} + {b}) * {c}", ""),
        (f"Solve ({a} - {c}) / {d}", f"({a} - {c}) / {d}", ""),
        (f"Calculate {a} + {b} - {c}.", f"{a} + {b} - {c}", ""),
        (f"Calculate {c} * {d} + {b}.", f"{c} * {d} + {b}", ""),
        (f"{name} buys {c} {thing} at {a} each. What is the price?", f"{c} * {a}",
         "The price is {}."),
        (f"{name} has {a} {thing} and gets {b} more. How many now?", f"{a} + {b}",
         f"{name} has {{}} {thing}."),
        (f"Of {a} {thing}, {name} gives {c} away. How many are left?", f"{a} - {c}",
         f"{{}} {thing} are left."),
        (f"{a} {thing} are shared by {c} people. How many does each get?", f"{a} / {c}",
         "Each gets {}."),
        (f"{name} reads {c} pages a day. How many in {d} days?", f"{c} * {d}", "{} pages."),
        (f"{name} earns {a} a week. What is that in {c} weeks?", f"{a} * {c}",
         f"{name} earns {{}}."),
        (f"A room is {c} metres long and {d} metres wide. How large is it?", f"{c} * {d}",
         "It has {} square metres."),
        (f"{c} boxes weigh {a} kg each. What do they weigh together?", f"{c} * {a}",
         "They weigh {} kg."),
        (f"{d} cups need {c} spoons. How many spoons for 1 cup?", f"{c} / {d}", "{} spoons."),
        (f"Mean of {c} and {d}?", f"mean({c}, {d})", ""),
        (f"Round {c}.{d}7 to one decimal.", f"round({c}.{d}7, 1)", ""),
        (f"Convert {c} miles to km.", f"{c} miles to km", ""),
        (f"How many kg are {c} pounds?", f"{c} pounds to kg", ""),
        (f"{c} inches in cm?", f"{c} inches to cm", ""),
        (f"What is {c} °C in °F?", f"{c} °C to °F", ""),
        (f"How many minutes are {c} hours?", f"{c} hours to minutes", ""),
        (f"How long is {c} weeks in days?", f"{c} weeks to days", ""),
        (f"A train goes {c} km in {d} hours. How fast is it?", f"{c} / {d}", "{} km/h."),
    )  # fmt: skip
    question, expression, answer = chance.choice(options)
    return question, expression, answer
