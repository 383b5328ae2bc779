// AI SDK: a text, its stream and a conversation that goes on, over chat and over Responses, by its
// package for OpenAI and the one for what is compatible; a tool that is called and answered.
import { createRequire } from 'node:module';
import { pathToFileURL } from 'node:url';

const [address, folder] = process.argv.slice(2);
const require = createRequire(pathToFileURL(`${folder}/package.json`));
const load = (name) => import(pathToFileURL(require.resolve(name)).href);
const { generateText, streamText, stepCountIs, tool } = await load('ai');
const { createOpenAI } = await load('@ai-sdk/openai');
const { createOpenAICompatible } = await load('@ai-sdk/openai-compatible');
const { z } = await load('zod');
const reached = { baseURL: `${address}/v1`, apiKey: 'none' };
const openai = createOpenAI(reached);
const compatible = createOpenAICompatible({ ...reached, name: 'kept', includeUsage: true });
const found = process.env.FOUND;
const weather = tool({
  description: 'The weather in a city.',
  inputSchema: z.object({ city: z.string() }),
  execute: async ({ city }) => (city === 'Paris' ? found : 'unknown'),
});

function check(holds, ...what) {
  if (!holds) throw new Error(JSON.stringify(what));
}

for (const model of [openai.chat('kept'), openai.responses('kept'), compatible('kept')]) {
  const messages = [{ role: 'user', content: 'add two numbers' }];
  const whole = await generateText({ model, messages, maxOutputTokens: 16 });
  const stream = streamText({ model, messages, maxOutputTokens: 16 });
  let text = '';
  for await (const part of stream.textStream) text += part;
  check(text === whole.text && text, text, whole.text);
  const usage = await stream.usage;
  check(usage.outputTokens === 16 && usage.inputTokens > usage.cachedInputTokens, usage);
  const turns = [...messages, ...whole.response.messages, { role: 'user', content: 'and three' }];
  const more = await generateText({ model, messages: turns, maxOutputTokens: 16 });
  check(more.text, more);
  const asked = {
    model,
    prompt: 'What is the weather in Paris?',
    tools: { weather },
    stopWhen: stepCountIs(3),
  };
  for (const called of [await generateText(asked), streamText(asked)]) {
    const steps = await called.steps;
    check(steps.length === 2 && steps[0].toolCalls[0].input.city === 'Paris', steps);
    check((await called.text) === `It says: ${found}`, await called.text);
  }
}
console.log('chat, responses and tools agree, by both packages');
