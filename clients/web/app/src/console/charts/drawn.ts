import type { Option } from "./echarts"
import { type Day, percent, SHARES, type Share, shares, spoken } from "./figures"

/** What a chart is drawn with: colours of the theme by name, and words in the language chosen. */
export interface Ink {
  colour: (name: string) => string
  word: (name: string) => string
  language: string
}

/** How one of the charts shows the days. */
export type Drawing = (days: Day[], ink: Ink) => Option

/** Calls, stacked by what became of them. */
export const CALLS: Drawing = (days, ink) => {
  const seen = SHARES.filter((share) => days.some(({ tally }) => shares(tally)[share] > 0))
  return {
    ...frame(days, ink, ({ tally }) => [
      [ink.word("calls"), String(tally.calls)],
      ...seen.map((share): [string, string] => [ink.word(share), String(shares(tally)[share])]),
    ]),
    yAxis: { ...upright(ink), minInterval: 1 },
    series: seen.map((share) => ({ ...bars(ink.colour(share), days, share), stack: "calls" })),
  }
}

/** The share that was answered; days of which nothing is known are gaps. */
export const RATE: Drawing = (days, ink) => ({
  ...frame(days, ink, ({ tally }) => [[ink.word("rate"), percent(tally.connectRate, ink.language)]]),
  yAxis: {
    ...upright(ink),
    min: 0,
    max: 1,
    interval: 0.25,
    axisLabel: { color: ink.colour("dim"), formatter: (rate: number) => `${100 * rate}%` },
  },
  series: {
    type: "line",
    data: days.map(({ tally }) => tally.connectRate),
    color: ink.colour("connected"),
    symbol: "circle",
    symbolSize: days.length > 60 ? 3 : 6,
    lineStyle: { width: 2 },
  },
})

/** Time talked, in hours where there is much of it. */
export function talk(time: (seconds: number) => string): Drawing {
  return (days, ink) => {
    const [unit, name] = days.some(({ tally }) => tally.talkSeconds > 2 * 3600) ? [3600, "hours"] : [60, "minutes"]
    return {
      ...frame(days, ink, ({ tally }) => [[ink.word("talk"), time(tally.talkSeconds)]]),
      yAxis: {
        ...upright(ink),
        minInterval: 1,
        axisLabel: { color: ink.colour("dim"), formatter: (value: number) => `${value} ${ink.word(name)}` },
      },
      series: {
        type: "bar",
        data: days.map(({ tally }) => tally.talkSeconds / unit),
        color: ink.colour("connected"),
        barMaxWidth: 28,
      },
    }
  }
}

function bars(colour: string, days: Day[], share: Share) {
  return { type: "bar" as const, data: days.map(({ tally }) => shares(tally)[share]), color: colour, barMaxWidth: 28 }
}

function upright(ink: Ink) {
  return {
    type: "value" as const,
    axisLabel: { color: ink.colour("dim") },
    splitLine: { lineStyle: { color: ink.colour("line") } },
  }
}

function frame(days: Day[], ink: Ink, lines: (day: Day) => [string, string][]): Option {
  return {
    animation: false,
    textStyle: { color: ink.colour("dim"), fontFamily: "inherit" },
    grid: { left: 8, right: 12, top: 12, bottom: 4, outerBoundsMode: "same" },
    xAxis: {
      type: "category",
      data: days.map(({ day }) => spoken(day, ink.language)),
      axisTick: { show: false },
      axisLine: { lineStyle: { color: ink.colour("line") } },
      axisLabel: { color: ink.colour("dim"), hideOverlap: true },
    },
    tooltip: {
      trigger: "axis",
      renderMode: "richText", // one made of HTML would bring styles that the security policy refuses
      axisPointer: { type: "line", lineStyle: { color: ink.colour("dim") } },
      backgroundColor: ink.colour("card"),
      borderColor: ink.colour("line"),
      textStyle: { color: ink.colour("ink"), fontSize: 13 },
      confine: true,
      formatter: (at) => {
        const day = days[(Array.isArray(at) ? at[0] : at)?.dataIndex ?? -1]
        if (day === undefined) return ""
        const told: [string, string][] = day.tally.calls > 0 ? lines(day) : [[ink.word("none"), ""]]
        return [spoken(day.day, ink.language, true), ...told.map((pair) => pair.join("  ").trim())].join("\n")
      },
    },
  }
}
