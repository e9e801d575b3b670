"""Answers questions about pictures by search, in the words of Sentence Transformers.

    python examples/answer_questions.py

Needs lame-runtime[onnxruntime]. Run it from the repository's root.
"""

from lame_runtime import Encoder

# fmt: off
ANSWERS = [
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven",
    "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen",
]
# fmt: on

model = Encoder.load("examples/tiny-bundle")
answers = model.encode(ANSWERS, prompt_name="document")

pictures = [{"image": f"examples/pictures/{digit}.png"} for digit in (3, 7, 9)]
# the tiny model was trained with this prompt before pictures of one digit
vectors = model.encode(pictures, prompt="Name the digit.")
for picture, row in zip(pictures, model.similarity(vectors, answers), strict=True):
    print(picture["image"], "is a", ANSWERS[row.argmax()])

questions = [
    {"image": f"examples/pictures/{digits}.png", "text": "What do the digits add up to?"}
    for digits in ("23", "72", "99")
]
vectors = model.encode(questions, prompt_name="query")
for question, row in zip(questions, model.similarity(vectors, answers), strict=True):
    best = row.argsort()[::-1][:2]
    print(question["image"], "adds up to", " or ".join(ANSWERS[index] for index in best))
model.close()
