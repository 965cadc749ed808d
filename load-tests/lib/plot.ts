export type Bar = { readonly label: string; readonly value: number; readonly colour: string };
export type Panel = { readonly title: string; readonly bars: readonly Bar[] };

const WIDTH = 760;
const LEFT = 190;
const RIGHT = 90;
const BAR = 20;
const GAP = 6;
const TITLE = 34;

/** Horizontal bars as SVG text, one panel above the other, each with a scale of its own. On white, so that it can be read on dark pages too. */
export function barPlot(title: string, panels: readonly Panel[], unit: string, footnote: string): string {
  const lines: string[] = [];
  let y = 64;
  for (const panel of panels) {
    const scale = (WIDTH - LEFT - RIGHT) / Math.max(...panel.bars.map(({ value }) => value));
    lines.push(`<text x="20" y="${y}" font-weight="600">${escaped(panel.title)}</text>`);
    y += TITLE - 20;
    for (const { label, value, colour } of panel.bars) {
      const width = Math.max(1, value * scale);
      lines.push(
        `<text x="${LEFT - 10}" y="${y + 14}" text-anchor="end" fill="#444">${escaped(label)}</text>`,
        `<rect x="${LEFT}" y="${y}" width="${width.toFixed(1)}" height="${BAR}" rx="3" fill="${colour}"/>`,
        `<text x="${(LEFT + width + 8).toFixed(1)}" y="${y + 14}" fill="#222">${format(value)} ${escaped(unit)}</text>`,
      );
      y += BAR + GAP;
    }
    y += TITLE - 8;
  }
  const height = y + 6;
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${height}" width="${WIDTH}" height="${height}" font-family="system-ui, sans-serif" font-size="13">`,
    `<title>${escaped(title)}</title>`,
    `<rect width="${WIDTH}" height="${height}" rx="8" fill="#fff"/>`,
    `<text x="20" y="32" font-size="16" font-weight="600" fill="#111">${escaped(title)}</text>`,
    ...lines,
    `<text x="20" y="${height - 12}" font-size="11" fill="#666">${escaped(footnote)}</text>`,
    '</svg>',
    '',
  ].join('\n');
}

const format = (value: number): string => Math.round(value).toLocaleString('en');
const escaped = (text: string): string => text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;');
