import "../shared/theme.css"
import "../shared/appearance"
import "./phone.css"
import { createApp } from "vue"
import { i18n } from "../shared/language"
import { keepPage } from "./kept-page"
import Page from "./Page.vue"

keepPage()
createApp(Page).use(i18n).mount("#app")
