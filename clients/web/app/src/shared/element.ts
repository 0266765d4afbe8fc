/** The parts of Element Plus that the pages use, each with its own style. */
import "element-plus/theme-chalk/base.css"
import "element-plus/theme-chalk/dark/css-vars.css"
import "element-plus/es/components/button/style/css"
import "element-plus/es/components/date-picker/style/css"
import "element-plus/es/components/dialog/style/css"
import "element-plus/es/components/input/style/css"
import "element-plus/es/components/message/style/css"
import "element-plus/es/components/message-box/style/css"
import "element-plus/es/components/option/style/css"
import "element-plus/es/components/radio/style/css"
import "element-plus/es/components/radio-group/style/css"
import "element-plus/es/components/select/style/css"
import "element-plus/es/components/switch/style/css"

export {
  ElButton,
  ElConfigProvider,
  ElDatePicker,
  ElDialog,
  ElInput,
  ElMessage,
  ElMessageBox,
  ElOption,
  ElSelect,
  ElSwitch,
} from "element-plus"
