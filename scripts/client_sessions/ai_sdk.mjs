// AI SDK: a text, its stream and a conversation that goes on, over chat and over Responses.
import { createRequire } from 'node:module';
import { pathToFileURL } from 'node:url';

const [address, folder] = process.argv.slice(2);
const require = createRequire(pathToFileURL(`${folder}/package.json`));
const load = (name) => import(pathToFileURL(require.resolve(name)).href);
const { generateText, streamText } = await load('ai');
const { createOpenAI } = await load('@ai-sdk/openai');
const openai = createOpenAI({ baseURL: `${address}/v1`, apiKey: 'none' });

for (const model of [openai.chat('kept'), openai.responses('kept')]) {
  const messages = [{ role: 'user', content: 'add two numbers' }];
  const whole = await generateText({ model, messages, maxOutputTokens: 16 });
  const stream = streamText({ model, messages, maxOutputTokens: 16 });
  let text = '';
  for await (const part of stream.textStream) text += part;
  if (text !== whole.text || !text) throw new Error(`${text} is not ${whole.text}`);
  const usage = await stream.usage;
  if (usage.outputTokens !== 16) throw new Error(JSON.stringify(usage));
  const turns = [...messages, ...whole.response.messages, { role: 'user', content: 'and three' }];
  const more = await generateText({ model, messages: turns, maxOutputTokens: 16 });
  if (!more.text) throw new Error('nothing was answered');
}
console.log('chat and responses agree');
