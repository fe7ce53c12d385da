// openai and ollama from npm: text, streams, tools and schemas.

import assert from "node:assert";
import OpenAI from "openai";
import { Ollama } from "ollama";

const [address, model] = process.argv.slice(2);
const question = { role: "user", content: "What is the weather in Paris?" };
const asked = { role: "user", content: "Paris has 2 million people." };
const schema = {
  type: "object",
  properties: { name: { type: "string" }, people: { type: "integer" } },
  required: ["name", "people"],
  additionalProperties: false,
};
const weather = {
  type: "function",
  function: {
    name: "weather",
    description: "Returns the weather.",
    parameters: {
      type: "object",
      properties: { city: { type: "string" } },
      required: ["city"],
    },
  },
};

const openai = new OpenAI({ baseURL: `${address}/v1`, apiKey: "none", maxRetries: 0 });
const limit = { model, max_tokens: 200, temperature: 0 };
const reply = await openai.chat.completions.create({ messages: [question], ...limit });
const text = reply.choices[0].message.content;
assert(text);
let streamed = "";
const stream = await openai.chat.completions.create({
  messages: [question],
  stream: true,
  ...limit,
});
for await (const chunk of stream) streamed += chunk.choices[0]?.delta?.content ?? "";
assert.equal(streamed, text);
const runner = openai.chat.completions.stream({
  messages: [question],
  tools: [weather],
  tool_choice: "required",
  ...limit,
});
let pieces = 0;
runner.on("tool_calls.function.arguments.delta", () => (pieces += 1));
const [call] = (await runner.finalChatCompletion()).choices[0].message.tool_calls;
assert.equal(call.function.name, "weather");
assert.equal(typeof JSON.parse(call.function.arguments).city, "string");
assert(pieces > 1);
const fitting = await openai.chat.completions.create({
  messages: [asked],
  response_format: { type: "json_schema", json_schema: { name: "city", schema, strict: true } },
  ...limit,
});
assert.equal(typeof JSON.parse(fitting.choices[0].message.content).people, "number");
const response = await openai.responses.create({
  model,
  input: [question],
  max_output_tokens: 200,
  temperature: 0,
});
assert.equal(response.output_text, text);

const ollama = new Ollama({ host: address });
const ask = { model, options: { temperature: 0, num_predict: 200 } };
assert.equal((await ollama.chat({ messages: [question], ...ask })).message.content, text);
streamed = "";
for await (const part of await ollama.chat({ messages: [question], stream: true, ...ask })) {
  streamed += part.message.content;
}
assert.equal(streamed, text);
const offered = await ollama.chat({ messages: [question], tools: [weather], ...ask });
for (const each of offered.message.tool_calls ?? []) assert.equal(each.function.name, "weather");
const formed = await ollama.chat({ messages: [asked], format: schema, ...ask });
assert.equal(typeof JSON.parse(formed.message.content).name, "string");
