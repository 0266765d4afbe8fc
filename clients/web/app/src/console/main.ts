import "../shared/theme.css"
import "../shared/appearance"
import "./element"
import "./console.css"
import "./words"
import { createApp } from "vue"
import { i18n } from "../shared/language"
import Page from "./Page.vue"

createApp(Page).use(i18n).mount("#app")
