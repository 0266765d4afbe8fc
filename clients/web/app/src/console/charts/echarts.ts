/** The parts of ECharts that the charts are made of. They draw SVG, whose styles the pages' security policy allows. */
import { BarChart, type BarSeriesOption, LineChart, type LineSeriesOption } from "echarts/charts"
import {
  AriaComponent,
  type AriaComponentOption,
  GridComponent,
  type GridComponentOption,
  TooltipComponent,
  type TooltipComponentOption,
} from "echarts/components"
import { type ComposeOption, use } from "echarts/core"
import { SVGRenderer } from "echarts/renderers"

use([AriaComponent, BarChart, GridComponent, LineChart, SVGRenderer, TooltipComponent])

export { type EChartsType, init } from "echarts/core"
export type Option = ComposeOption<
  AriaComponentOption | BarSeriesOption | GridComponentOption | LineSeriesOption | TooltipComponentOption
>
