/** The parts of Element Plus that the console uses beyond those of all pages. */
import "./element.css"

export { ElCheckbox } from "element-plus"
export * from "../shared/element"
