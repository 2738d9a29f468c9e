// A conversation by the AI SDK: node ai_sdk.mjs PROVIDER TURN..., with the environment of talk.py.
import { createAnthropic } from '@ai-sdk/anthropic';
import { createOpenAI } from '@ai-sdk/openai';
import { createOpenAICompatible } from '@ai-sdk/openai-compatible';
import { stepCountIs, streamText, tool } from 'ai';
import { z } from 'zod';

const [provider, ...turns] = process.argv.slice(2);
const { TALK_BASE_URL, TALK_MODELS, TALK_SYSTEM } = process.env;
const baseURL = `${TALK_BASE_URL}/v1`;
const apiKey = 'unused';
const providers = {
  openai: (model) => createOpenAI({ baseURL, apiKey })(model),
  'openai-compatible': (model) =>
    createOpenAICompatible({ name: 'cortexd', baseURL, apiKey, includeUsage: true })(model),
  anthropic: (model) => createAnthropic({ baseURL, apiKey })(model),
};
const inputSchema = z.object({ city: z.string() });
const tools = {
  weather: tool({
    description: 'The weather in a city.',
    inputSchema,
    execute: async ({ city }) => `The sun shines ${city}`,
  }),
  clock: tool({
    description: 'The time in a city.',
    inputSchema,
    execute: async ({ city }) => `It is noon ${city}`,
  }),
};

for (const model of TALK_MODELS.split(' ')) {
  let messages = [];
  for (const turn of turns) {
    messages.push({ role: 'user', content: turn });
    const result = streamText({
      model: providers[provider](model),
      system: TALK_SYSTEM,
      messages,
      tools,
      maxOutputTokens: 2000,
      stopWhen: stepCountIs(5),
      onError: ({ error }) => {
        throw error;
      },
    });
    console.log(JSON.stringify(await result.text));
    messages = messages.concat(await result.responseMessages);
  }
}
