import { render } from "preact";
import { useState } from "preact/hooks";

function Counter() {
  const [n, set] = useState(0);
  return <button onClick={() => set(n + 1)}>pressed {n} times</button>;
}

render(<Counter />, document.getElementById("app"));
