// Draws systemd/grafana-dashboard.json with Grafana's panel components. What the dashboard leaves open has the value
// that Grafana gives it. ?prometheus=URL&from=SECONDS&until=SECONDS
import React, { useEffect, useState } from 'react';
import { createRoot } from 'react-dom/client';
import {
  createDataFrame, createTheme, dateTime, FieldType, getDisplayProcessor, getDisplayValueAlignmentFactors,
  getFieldDisplayValues, ThemeContext, VizOrientation,
} from '@grafana/data';
import { BigValue, GlobalStyles, PanelChrome, TimeSeries, VizRepeater } from '@grafana/ui';
import dashboard from '../../systemd/grafana-dashboard.json';

const asked = new URLSearchParams(location.search);
const [from, until] = [Number(asked.get('from')), Number(asked.get('until'))];
// As with a scrape interval of 5 s in the settings of Grafana's data source.
const STEP = 5;
const VARIABLES = { $instance: '.*', $__rate_interval: `${4 * STEP}s` };
const COLUMN = 1600 / 24;
const [ROW, MARGIN] = [30, 8];
const THRESHOLDS = { mode: 'absolute', steps: [{ color: 'green', value: -Infinity }, { color: 'red', value: 80 }] };
const theme = createTheme({ colors: { mode: 'dark' } });
const timeRange = { from: dateTime(from * 1000), to: dateTime(until * 1000), raw: { from: 'now', to: 'now' } };

async function series({ expr, legendFormat }) {
  const query = Object.entries(VARIABLES).reduce((text, [name, value]) => text.replaceAll(name, value), expr);
  const parameters = new URLSearchParams({ query, start: from, end: until, step: STEP });
  const answer = await (await fetch(`${asked.get('prometheus')}/api/v1/query_range?${parameters}`)).json();
  if (answer.status !== 'success') {
    throw new Error(`${query}: ${answer.error}`);
  }
  return answer.data.result.map(({ metric, values }) => ({
    name: legendFormat.replace(/{{(\w+)}}/g, (_, label) => metric[label]),
    times: values.map(([time]) => time * 1000),
    values: values.map(([, value]) => Number(value)),
  }));
}

/** One frame a series, as Grafana's data source for Prometheus has them. */
async function frames(panel) {
  const { thresholds = THRESHOLDS, ...defaults } = panel.fieldConfig.defaults;
  const steps = thresholds.steps.map(({ color, value }) => ({ color, value: value ?? -Infinity }));
  const color = { mode: panel.type === 'timeseries' ? 'palette-classic' : 'thresholds' };
  const all = (await Promise.all(panel.targets.map(series))).flat();
  const finite = all.flatMap(({ values }) => values).filter(Number.isFinite);
  const [min, max] = [Math.min(...finite), Math.max(...finite)];
  return all.map(({ name, times, values }, seriesIndex) => {
    const config = { color, ...defaults, thresholds: { ...thresholds, steps }, displayNameFromDS: name, custom: {} };
    const overrides = panel.fieldConfig.overrides.filter(({ matcher }) => matcher.id === 'byName' && matcher.options === name);
    for (const { id, value } of overrides.flatMap(({ properties }) => properties)) {
      const inCustom = id.startsWith('custom.');
      (inCustom ? config.custom : config)[id.replace('custom.', '')] = value;
    }
    const frame = createDataFrame({
      fields: [
        { name: 'Time', type: FieldType.time, values: times, config: { interval: STEP * 1000 } },
        { name: 'Value', type: FieldType.number, values, config },
      ],
    });
    for (const field of frame.fields) {
      field.state = { seriesIndex, range: { min, max, delta: max - min } };
      field.display = getDisplayProcessor({ field, theme });
    }
    return frame;
  });
}

function Values({ panel, data, width, height }) {
  const display = () => getFieldDisplayValues({
    data, theme, fieldConfig: panel.fieldConfig, reduceOptions: { calcs: ['lastNotNull'] }, replaceVariables: (text) => text,
    sparkline: true,
  });
  const value = ({ value, width, height, count, alignmentFactors }) => (
    <BigValue value={value.display} sparkline={value.sparkline} width={width} height={height} count={count} theme={theme}
      alignmentFactors={alignmentFactors} colorMode="value" graphMode="area" justifyMode="auto" textMode="auto"
      text={panel.options?.text} />
  );
  return <VizRepeater getValues={display} getAlignmentFactors={getDisplayValueAlignmentFactors} renderValue={value} width={width}
    height={height} source={data} renderCounter={0} orientation={VizOrientation.Auto} autoGrid itemSpacing={3} />;
}

function Panel({ panel }) {
  const [data, setData] = useState();
  useEffect(() => {
    frames(panel).then(setData);
  }, [panel]);
  const { x, y, w, h } = panel.gridPos;
  const [width, height] = [w * COLUMN - MARGIN, h * (ROW + MARGIN) - MARGIN];
  const legend = { showLegend: true, displayMode: 'list', placement: 'bottom', calcs: [] };
  const content = (width, height) => {
    if (!data) {
      return null;
    }
    if (data.length === 0) {
      return <div className="drawn">No data</div>;
    }
    const drawn = panel.type === 'timeseries'
      ? <TimeSeries frames={data} width={width} height={height} timeRange={timeRange} timeZone="utc" legend={legend} />
      : <Values panel={panel} data={data} width={width} height={height} />;
    return <div className="drawn">{drawn}</div>;
  };
  return (
    <div style={{ position: 'absolute', left: x * COLUMN + MARGIN / 2, top: y * (ROW + MARGIN) + MARGIN / 2 }}>
      <PanelChrome title={panel.title} description={panel.description} width={width} height={height}>{content}</PanelChrome>
    </div>
  );
}

const rows = Math.max(...dashboard.panels.map(({ gridPos }) => gridPos.y + gridPos.h));
createRoot(document.getElementById('dashboard')).render(
  <ThemeContext.Provider value={theme}>
    <GlobalStyles />
    <div style={{ position: 'relative', width: 24 * COLUMN, height: rows * (ROW + MARGIN) }}>
      {dashboard.panels.map((panel) => <Panel key={panel.id} panel={panel} />)}
    </div>
  </ThemeContext.Provider>,
);
