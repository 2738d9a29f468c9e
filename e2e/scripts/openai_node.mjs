// A conversation by openai-node: node openai_node.mjs DIALECT TURN..., with the environment of
// talk.py.
import OpenAI from 'openai';

const [dialect, ...turns] = process.argv.slice(2);
const { TALK_BASE_URL, TALK_MODELS, TALK_SYSTEM } = process.env;
const client = new OpenAI({ baseURL: `${TALK_BASE_URL}/v1`, apiKey: 'unused' });
const parameters = {
  type: 'object',
  properties: { city: { type: 'string' } },
  required: ['city'],
  additionalProperties: false,
};
const tools = {
  weather: { description: 'The weather in a city.', run: ({ city }) => `The sun shines ${city}` },
  clock: { description: 'The time in a city.', run: ({ city }) => `It is noon ${city}` },
};

async function* chat(model) {
  const given = Object.entries(tools).map(([name, { description, run }]) => ({
    type: 'function',
    function: { name, description, parameters, parse: JSON.parse, function: run },
  }));
  let messages = [{ role: 'system', content: TALK_SYSTEM }];
  for (const turn of turns) {
    messages.push({ role: 'user', content: turn });
    const runner = client.chat.completions.runTools({
      model,
      stream: true,
      messages,
      tools: given,
    });
    yield await runner.finalContent();
    messages = [...runner.messages];
  }
}

async function* responses(model) {
  const given = Object.entries(tools).map(([name, { description }]) => ({
    type: 'function',
    name,
    description,
    parameters,
    strict: true,
  }));
  let previous;
  for (const turn of turns) {
    let input = [{ role: 'user', content: turn }];
    let answer;
    while (input.length > 0) {
      const stream = client.responses.stream({
        model,
        instructions: TALK_SYSTEM,
        input,
        tools: given,
        previous_response_id: previous,
      });
      answer = await stream.finalResponse();
      if (answer.status !== 'completed') throw new Error(JSON.stringify(answer));
      previous = answer.id;
      input = answer.output
        .filter(({ type }) => type === 'function_call')
        .map(({ call_id, name, arguments: given }) => ({
          type: 'function_call_output',
          call_id,
          output: tools[name].run(JSON.parse(given)),
        }));
    }
    yield answer.output_text;
  }
}

for (const model of TALK_MODELS.split(' ')) {
  const answers = { chat, responses }[dialect](model);
  for await (const answer of answers) console.log(JSON.stringify(answer));
}
