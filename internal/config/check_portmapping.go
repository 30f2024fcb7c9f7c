package config

// PortMappingAuto is the value of port_mapping that has the router asked.
const (
	PortMappingAuto = "auto"
	portMappingOff  = "off"
)

func (c *checker) portMapping() {
	c.choice("port_mapping", &c.cfg.PortMapping, PortMappingAuto, portMappingOff)
}
