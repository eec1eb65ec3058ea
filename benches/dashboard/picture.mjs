// usage: node picture.mjs PROMETHEUS FROM UNTIL PICTURE    CHROMIUM names the browser
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { chromium } from 'playwright-core';
import { build, preview } from 'vite';
import dashboard from '../../systemd/grafana-dashboard.json' with { type: 'json' };

const [prometheus, from, until, path] = process.argv.slice(2);
const outDir = mkdtempSync(join(tmpdir(), 'grafana-picture.'));
const settings = {
  root: import.meta.dirname,
  logLevel: 'error',
  define: { 'process.env': {} },
  build: { outDir, minify: false },
  preview: { host: '127.0.0.1' },
};
await build(settings);
const server = await preview(settings);
const browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium', args: ['--no-sandbox'] });
try {
  const page = await browser.newPage({ viewport: { width: 1600, height: 1000 } });
  page.on('pageerror', (error) => console.error(error));
  page.on('console', (message) => message.type() === 'error' && console.error(message.text()));
  await page.goto(`${server.resolvedUrls.local[0]}?${new URLSearchParams({ prometheus, from, until })}`);
  await page.waitForFunction((panels) => document.querySelectorAll('.drawn').length === panels, dashboard.panels.length, { timeout: 60_000 });
  await page.evaluate(() => document.fonts.ready);
  await page.screenshot({ path, fullPage: true, animations: 'disabled' });
} finally {
  await browser.close();
  await server.close();
  rmSync(outDir, { recursive: true });
}
