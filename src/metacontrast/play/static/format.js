// Numbers and elements.

export function number(value, digits = 3) {
  if (value === 0) return "0";
  const size = Math.abs(value);
  const text = size < 5e-5 || size >= 1e5 ? value.toExponential(1) : value.toLocaleString("en", { maximumFractionDigits: Math.max(0, digits - 1 - Math.floor(Math.log10(size))), minimumFractionDigits: Math.min(2, Math.max(0, digits - 1 - Math.floor(Math.log10(size)))) });
  return text.replaceAll("-", "−");
}

export const signed = (value, digits) => (value > 0 ? "+" : "") + number(value, digits);
export const fixed = (value, places = 3) => (value < 0 ? "−" : "+") + Math.abs(value).toFixed(places);
export const percent = (value) => `${(100 * value).toFixed(value > 0.0995 && value < 0.995 ? 0 : 1).replace(/\.0$/, "")} %`;

export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (name === "class") made.className = value;
    else if (value === true) made.setAttribute(name, "");
    else if (value !== false && value != null) made.setAttribute(name, value);
  }
  made.append(...children.flat().filter((child) => child != null));
  return made;
}

export function drawn(tag, attributes = {}, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}
