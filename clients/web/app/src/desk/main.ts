import "../shared/theme.css"
import "../shared/appearance"
import "../shared/element"
import "./desk.css"
import { createApp } from "vue"
import { i18n } from "../shared/language"
import Page from "./Page.vue"

createApp(Page).use(i18n).mount("#app")
